defmodule Snakepit.Pool.Env do
  @moduledoc false
  # The environment variables of one worker: those of the pool's `env:`, or what its function says for the worker's
  # index. The function runs at every start of a worker, in a process of its own: `ask/2` does not wait for it, so that
  # neither its failure nor its slowness is the worker's.

  alias Snakepit.Error

  @own ~w(SNAKEPIT_SOCKET SNAKEPIT_TOKEN)

  @typedoc "The options of a pool (`Snakepit.Pool.Options`), which in their turn are checked here."
  @type options :: struct()
  @type variables :: %{String.t() => String.t()}
  @type t :: variables() | (index :: non_neg_integer() -> variables()) | {module(), atom()}

  @typedoc "A function that was asked: its process, the monitor of it, and a timer that says when it took too long."
  @type asked :: %{
          pid: pid(),
          monitor: reference(),
          timer: reference(),
          options: options(),
          index: non_neg_integer()
        }

  @doc """
  As `resolve/2`, without waiting: the caller is sent a `:DOWN` or an `{:env_late, pid}` message, which `answer/2` reads.
  The function's process ends with the caller.
  """
  @spec ask(options(), non_neg_integer()) :: {:ok, options()} | {:asked, asked()}
  def ask(%{env: env} = options, _index) when is_map(env), do: {:ok, options}

  def ask(options, index) do
    {pid, monitor} = :erlang.spawn_opt(fn -> exit({:env, call(options.env, index)}) end, [:link, :monitor])
    timer = Process.send_after(self(), {:env_late, pid}, options.startup_timeout)
    {:asked, %{pid: pid, monitor: monitor, timer: timer, options: options, index: index}}
  end

  @doc "The content of the message that `ask/2` announced."
  @spec answer(message :: tuple(), asked()) :: {:ok, options()} | {:error, Error.t()}
  def answer({:DOWN, monitor, :process, _pid, reason}, %{monitor: monitor} = asked) do
    Process.cancel_timer(asked.timer)

    case reason do
      {:env, {:ok, env}} -> with_variables(asked.options, asked.index, env)
      {:env, {:error, words}} -> {:error, error(asked.options, asked.index, words)}
      other -> {:error, error(asked.options, asked.index, "ended: #{Exception.format_exit(other)}")}
    end
  end

  def answer({:env_late, pid}, %{pid: pid} = asked) do
    Process.unlink(pid)
    Process.exit(pid, :kill)
    Process.demonitor(asked.monitor, [:flush])
    {:error, error(asked.options, asked.index, late(asked.options.startup_timeout))}
  end

  defp with_variables(options, index, env) do
    case check(env) do
      :ok -> {:ok, %{options | env: env}}
      {:error, words} -> {:error, error(options, index, words)}
    end
  end

  defp late(timeout), do: "did not return within #{timeout} ms (startup_timeout: of the pool)"

  @doc "The options with the variables of the worker of this index in place of a function."
  @spec resolve(options(), non_neg_integer()) :: {:ok, options()} | {:error, Error.t()}
  def resolve(%{env: env} = options, _index) when is_map(env), do: {:ok, options}

  def resolve(options, index) do
    task = Task.async(fn -> call(options.env, index) end)

    case returned(task, options.startup_timeout) do
      {:ok, env} -> with_variables(options, index, env)
      {:error, words} -> {:error, error(options, index, words)}
    end
  end

  defp returned(task, timeout) do
    case Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill) do
      {:ok, answer} -> answer
      {:exit, reason} -> {:error, "ended: #{Exception.format_exit(reason)}"}
      nil -> {:error, late(timeout)}
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

        # With another one, a worker looks for its pool where that is not.
        String.starts_with?(name, @own) ->
          {:error, "gave #{inspect(name)}, which Snakepit itself sets for each worker: leave it out"}

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
  @spec each(options(), (name :: String.t() -> boolean())) :: {:ok, [options()]} | {:error, Error.t()}
  def each(%{env: env} = options, _concerns?) when is_map(env), do: {:ok, [options]}

  def each(options, concerns?) do
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
