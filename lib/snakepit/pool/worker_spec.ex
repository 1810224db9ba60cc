defmodule Snakepit.Pool.WorkerSpec do
  @moduledoc false
  # The settings that a pool's worker starts with: the pool's options, in the words of `Snakepit.Worker.Spec`.

  alias Snakepit.{Bytes, Python, Worker}
  alias Snakepit.Pool.{Handle, Imports, Options, WarmUp}
  alias Snakepit.Worker.{Chunks, OsProcess, Spec}

  @doc """
  The spec of one run. `options`: the pool's, with the number of its workers as the worker shall see it and the worker's own
  variables. `owner`: hears of the run.
  """
  @spec new(
          Handle.t(),
          Options.t(),
          index :: non_neg_integer(),
          restarts :: non_neg_integer(),
          owner :: pid()
        ) ::
          Worker.Spec.t()
  def new(%Handle{} = handle, %Options{} = options, index, restarts, owner) do
    reload? = Imports.watched?(options)

    %Spec{
      pool: handle.name,
      index: index,
      name: worker(handle.name, index),
      size: options.size,
      owner: owner,
      launcher: launcher(options),
      os_process?: options.fake == nil,
      options: options,
      lanes: Options.lanes(options),
      quota: Chunks.quota(%{handle | options: options}),
      welcome: welcome(options, index, reload?),
      arena: handle.arena,
      queue: handle.queue,
      restarts: restarts,
      on_source: if(reload?, do: &Imports.report(handle.name, &1, &2))
    }
  end

  @doc "The name of a worker."
  @spec worker(atom(), non_neg_integer()) :: String.t()
  def worker(pool, index), do: "#{pool}-#{index}"

  defp launcher(%Options{fake: nil}), do: OsProcess
  defp launcher(%Options{fake: {module, _}}), do: module

  defp welcome(options, index, reload?) do
    %{
      lanes: Options.lanes(options),
      inline_limit: options.inline_limit,
      chunk_size: options.chunk_size,
      idle_ms: options.idle_chunk_ms,
      max_result: options.max_result,
      pool: inspect(options.name),
      worker: %{pool: name(options.name), index: index, size: options.size},
      warm_up: warm_up(options.warm_up),
      modules: options.python_module,
      source: Options.source(options),
      install: Python.install(options),
      numpy_memory: Python.numpy_memory(options),
      busy_poll: Options.busy_poll(options),
      watch: if(reload?, do: Python.directories(options), else: []),
      check_returns: Options.check_returns?(options)
    }
  end

  # As people call it: without the colon, or the prefix of a module.
  defp name(pool), do: pool |> Atom.to_string() |> String.replace_prefix("Elixir.", "")

  # They were encoded once before, when the pool's options were checked.
  defp warm_up(calls) do
    {:ok, envelopes} = WarmUp.envelopes(calls)

    for {{command, _args}, envelope} <- Enum.zip(calls, envelopes),
        do: [command, %Bytes{data: envelope}]
  end
end
