defmodule Snakepit.Pool.Env do
  @moduledoc false
  # The environment variables of one worker: those of the pool's `env:`, or what its function says for the worker's
  # index. The function runs at every start of a worker, in a process of its own, so that neither its failure nor its
  # slowness is the worker's.

  alias Snakepit.Error
  alias Snakepit.Pool.Options

  @type variables :: %{String.t() => String.t()}
  @type t :: variables() | (index :: non_neg_integer() -> variables()) | {module(), atom()}

  @doc "The options with the variables of the worker of this index in place of a function."
  @spec resolve(Options.t(), non_neg_integer()) :: {:ok, Options.t()} | {:error, Error.t()}
  def resolve(%Options{env: env} = options, _index) when is_map(env), do: {:ok, options}

  def resolve(%Options{} = options, index) do
    task = Task.async(fn -> call(options.env, index) end)

    with {:ok, env} <- returned(task, options.startup_timeout), :ok <- check(env) do
      {:ok, %{options | env: env}}
    else
      {:error, words} -> {:error, error(options, index, words)}
    end
  end

  defp returned(task, timeout) do
    case Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill) do
      {:ok, answer} -> answer
      {:exit, reason} -> {:error, "ended: #{Exception.format_exit(reason)}"}
      nil -> {:error, "did not return within #{timeout} ms (startup_timeout: of the pool)"}
    end
  end

  defp call(env, index) do
    {:ok, apply_to(env, index)}
  catch
    kind, reason ->
      {kind, reason} = {kind, Exception.normalize(kind, reason, __STACKTRACE__)}
      words = Exception.format_banner(kind, reason, __STACKTRACE__)
      {:error, "failed: #{String.trim_leading(words, "** ")}#{place(__STACKTRACE__)}"}
  end

  defp apply_to({module, function}, index), do: apply(module, function, [index])
  defp apply_to(function, index), do: function.(index)

  defp place([entry | _]), do: " (#{Exception.format_stacktrace_entry(entry)})"
  defp place([]), do: ""

  defp error(options, index, words) do
    words = "pool #{inspect(options.name)}: env: #{shown(options.env)} #{words}, for worker #{index}"
    Error.new(:validation, :invalid_env, words, pool: options.name, details: %{key: :env, index: index})
  end

  defp shown({module, function}), do: "#{inspect(module)}.#{function}/1"
  defp shown(function), do: inspect(function)

  @doc "Whether an operating system takes these variables; if not, why, in words that go on from what gave them."
  @spec check(term()) :: :ok | {:error, String.t()}
  def check(env) when is_map(env) and not is_struct(env) do
    Enum.find_value(env, :ok, fn {name, value} ->
      cond do
        not (text?(name) and text?(value)) ->
          {:error, "gave #{inspect({name, value})}, where name and value must be strings without a zero byte"}

        name == "" or String.contains?(name, "=") ->
          {:error, "gave #{inspect(name)}, which cannot be the name of an environment variable"}

        true ->
          nil
      end
    end)
  end

  def check(other) do
    {:error,
     "gave #{inspect(other, limit: 5, printable_limit: 100)}, where a map of strings to strings is expected"}
  end

  defp text?(text), do: is_binary(text) and String.valid?(text) and not String.contains?(text, <<0>>)

  @doc """
  The options of each worker of the pool, for what checks them without a start. Those whose variables differ only in
  what `concerns?` is false of are listed once.
  """
  @spec each(Options.t(), (name :: String.t() -> boolean())) :: {:ok, [Options.t()]} | {:error, Error.t()}
  def each(%Options{env: env} = options, _concerns?) when is_map(env), do: {:ok, [options]}

  def each(%Options{} = options, concerns?) do
    Enum.reduce_while(0..(options.size - 1), {:ok, []}, fn index, {:ok, done} ->
      case resolve(options, index) do
        {:ok, options} -> {:cont, {:ok, [options | done]}}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
    |> case do
      {:ok, all} ->
        {:ok,
         all |> Enum.reverse() |> Enum.uniq_by(&Map.filter(&1.env, fn {name, _} -> concerns?.(name) end))}

      error ->
        error
    end
  end
end
