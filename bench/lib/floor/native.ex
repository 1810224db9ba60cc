defmodule Snakepit.Bench.Floor.Native do
  @moduledoc false
  # The NIF library of the floors and of simulated worlds (bench/native). `load!/0` builds and loads it: call that first.

  alias Snakepit.Bench.Cargo

  @doc "Builds and loads the library, once per VM."
  @spec load!() :: :ok
  def load!, do: :global.trans({__MODULE__, self()}, &load_once/0, [node()])

  defp load_once do
    # A local call could be replaced by the answer of the stub when this module is compiled.
    unless __MODULE__.loaded?() do
      with {:ok, path} <- Cargo.library("snakepit_floors"),
           :ok <- path |> Path.rootname() |> String.to_charlist() |> :erlang.load_nif(0) do
        :ok
      else
        {:error, {_kind, words}} -> raise "the library of the floors could not be loaded: #{words}"
        {:error, why} -> raise "the library of the floors could not be built: #{why}"
      end
    end

    :ok
  end

  @doc "Whether the library is loaded."
  @spec loaded?() :: boolean()
  def loaded?, do: false

  @doc "Nanoseconds of each of `rounds` copies of `bytes` between two warm buffers."
  @spec memcpy_warm(bytes :: non_neg_integer(), rounds :: pos_integer()) :: [non_neg_integer()]
  def memcpy_warm(_bytes, _rounds), do: not_loaded()

  @doc "Nanoseconds of each of `rounds` times three copies of `bytes`, one after the other, between warm buffers."
  @spec memcpy_chain(bytes :: non_neg_integer(), rounds :: pos_integer()) :: [non_neg_integer()]
  def memcpy_chain(_bytes, _rounds), do: not_loaded()

  @doc "As `memcpy_chain/2`, the first copy on one core, the others on another, which gets the bytes and gives them back."
  @spec memcpy_across(bytes :: non_neg_integer(), rounds :: pos_integer()) :: [non_neg_integer()]
  def memcpy_across(_bytes, _rounds), do: not_loaded()

  @doc "Those of `memcpy_warm/2`, but into shared memory that nobody has touched before."
  @spec memcpy_cold(bytes :: non_neg_integer(), rounds :: pos_integer()) :: [non_neg_integer()]
  def memcpy_cold(_bytes, _rounds), do: not_loaded()

  @doc "Nanoseconds of each of so many times (65,535 at most) that one thread wakes another and is woken by it: `futex(2)`."
  @spec futex(rounds :: pos_integer()) :: [non_neg_integer()]
  def futex(_rounds), do: not_loaded()

  @doc """
  A run of `calls` calls in a simulated world, which changes at `change`: see bench/native/src/worlds.rs. The same seed gives the
  same run.
  """
  @spec simulated(world :: atom(), seed :: pos_integer(), calls :: pos_integer(), change :: pos_integer()) ::
          map()
  def simulated(_world, _seed, _calls, _change), do: not_loaded()

  defp not_loaded, do: :erlang.nif_error(:not_loaded)
end
