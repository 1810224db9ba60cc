defmodule Snakepit.Demo.Examine do
  @moduledoc false
  # One file: its bytes through each of the tools, the answers checked.

  alias Snakepit.Observation
  alias Snakepit.Demo.Scan
  alias Snakepit.Terminal.{Name, Units}

  @enforce_keys [:shown, :size, :entropy, :ratio, :sampled, :calls]
  defstruct @enforce_keys

  @type call :: %{way: atom(), ns: non_neg_integer()}
  @type t :: %__MODULE__{}

  @doc "What the tools say of a file, or one line that says why there is nothing."
  @spec file(Scan.file(), atom(), largest :: pos_integer()) :: {:ok, t()} | {:error, String.t()}
  def file(file, pool, largest) do
    with :ok <- fits(file, largest),
         {:ok, data} <- read(file),
         {:ok, histogram, first} <- call("histogram", data, file, pool),
         {:ok, packed, second} <- call("zlib_ratio", data, file, pool),
         {:ok, digest, third} <- call("sha256", data, file, pool),
         :ok <- same_digest(file, data, digest),
         :ok <- same_size(file, data, histogram["counts"]) do
      {:ok,
       %__MODULE__{
         shown: file.shown,
         size: byte_size(data),
         entropy: histogram["entropy"],
         ratio: packed["ratio"],
         sampled: packed["sampled"],
         calls: [first, second, third]
       }}
    end
  end

  # A VM that cannot get the memory for a binary is gone at once.
  defp fits(%{size: size}, largest) when size <= largest, do: :ok

  defp fits(file, largest) do
    sizes = "#{Units.counted(file.size, "byte")}, and this machine's memory allows #{largest}"
    {:error, "#{file.shown}: is too large to be read whole (#{sizes})"}
  end

  defp read(file) do
    with {:error, reason} <- :file.read_file(file.path), do: {:error, "#{file.shown}: #{Scan.words(reason)}"}
  end

  defp call(tool, data, file, pool) do
    case Snakepit.observe(tool, %{data: Snakepit.bytes(data)}, pool: pool, timeout: :infinity) do
      {{:ok, answer}, observation} ->
        {:ok, answer, %{way: observation.request_way, ns: Observation.transfer_ns(observation)}}

      {{:error, error}, _observation} ->
        {:error, "#{file.shown}: #{tool}: #{Name.show(first_line(error.message))}"}
    end
  end

  @doc "The digest Python computed must be Erlang's own."
  @spec same_digest(Scan.file(), binary(), String.t()) :: :ok | {:error, String.t()}
  def same_digest(file, data, digest) do
    own = :crypto.hash(:sha256, data) |> Base.encode16(case: :lower)

    if digest == own do
      :ok
    else
      {:error, "#{file.shown}: WRONG DATA: SHA-256 in Python is #{inspect(digest)}, in Elixir #{own}"}
    end
  end

  defp same_size(file, data, counts) do
    counted = counts |> Snakepit.Tensor.to_flat_list() |> Enum.sum()
    size = byte_size(data)

    if counted == size,
      do: :ok,
      else: {:error, "#{file.shown}: WRONG DATA: Python counted #{counted} of #{Units.counted(size, "byte")}"}
  end

  defp first_line(text), do: text |> String.split("\n") |> hd()
end
