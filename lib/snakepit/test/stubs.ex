defmodule Snakepit.Test.Stubs do
  @moduledoc false
  # Which process replaced which fake tool, which process uses whose replacements, and which process watches calls.
  # All of it ends with the process it belongs to. Written by this process, read by lanes in ETS.
  #
  # A call belongs to the process that made it, and to those that this one works for: its `$callers`, `$ancestors` and
  # parent. The nearest of them that has a stub decides.

  use GenServer
  alias Snakepit.{Error, Pool}
  alias Snakepit.Test.Tool

  @table __MODULE__

  # {{:stub, pool, command, owner}, tool}, {{:watch, pool, owner}}, {{:allow, pid or :all}, owner}, and {{:owner, pid}}

  @doc "Calls of `command` that belong to `owner` run `tool`."
  @spec stub(pid(), atom(), String.t(), Tool.t()) :: :ok
  def stub(owner, pool, command, tool), do: put(owner, {{:stub, pool, command, owner}, tool})

  @doc "`owner` gets a message for each call that belongs to it."
  @spec watch(pid(), atom()) :: :ok
  def watch(owner, pool), do: put(owner, {{:watch, pool, owner}, true})

  @doc "Calls that belong to `pid` also belong to `owner`; `:all` stands for all calls that no other process owns."
  @spec allow(pid(), pid() | atom() | :all) :: :ok
  def allow(owner, pid), do: put(owner, {{:allow, pid}, owner})

  @spec watches?(pid()) :: boolean()
  def watches?(owner), do: match?({[_ | _], _}, select([{{{:watch, :_, owner}, :_}, [], [true]}], 1))

  @doc "The tool that replaces `command` for such a caller."
  @spec find(atom(), String.t(), [pid() | atom()]) :: Tool.t() | nil
  def find(pool, command, chain) do
    Enum.find_value(owners(chain), fn owner ->
      with [{_, tool}] <- lookup({:stub, pool, command, owner}), do: tool, else: (_ -> nil)
    end)
  end

  @doc "Sends a message to each watching process, once."
  @spec called(atom(), String.t(), map(), [pid() | atom()]) :: :ok
  def called(pool, command, args, chain) do
    for owner <- owners(chain), lookup({:watch, pool, owner}) != [] do
      send(owner, {:snakepit_called, command, args})
    end

    :ok
  end

  # Nearest first.
  defp owners(chain) do
    (Enum.flat_map(chain, &with_owner/1) ++ allowed(:all)) |> Enum.uniq()
  end

  defp with_owner(name) when is_atom(name) do
    case Process.whereis(name) do
      nil -> allowed(name)
      pid -> [pid | allowed(name) ++ allowed(pid)]
    end
  end

  defp with_owner(pid), do: [pid | allowed(pid) ++ allowed_by_name(pid)]

  defp allowed_by_name(pid) do
    case node(pid) == node() && Process.info(pid, :registered_name) do
      {:registered_name, name} -> allowed(name)
      _none -> []
    end
  end

  defp allowed(pid), do: for({_, owner} <- lookup({:allow, pid}), do: owner)

  # There are no stubs yet.
  defp lookup(key) do
    :ets.lookup(@table, key)
  rescue
    ArgumentError -> []
  end

  defp select(pattern, most) do
    :ets.select(@table, pattern, most)
  rescue
    ArgumentError -> :"$end_of_table"
  end

  defp put(owner, row) do
    with {:ok, pid} <- ensure_started() do
      GenServer.call(pid, {:put, owner, row})
    else
      {:error, error} -> raise error
    end
  end

  # Started with the first stub, so an application outside of tests has none of this.
  defp ensure_started do
    with :ok <- Pool.Handle.application() do
      case Process.whereis(__MODULE__) || DynamicSupervisor.start_child(Snakepit.Pools, __MODULE__) do
        pid when is_pid(pid) ->
          {:ok, pid}

        {:ok, pid} ->
          {:ok, pid}

        {:error, {:already_started, pid}} ->
          {:ok, pid}

        {:error, reason} ->
          {:error, Error.new(:pool, :not_started, "stubs cannot be kept: #{inspect(reason)}")}
      end
    end
  end

  # ---- the process ------------------------------------------------------------------------------------------------

  def start_link(_argument), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    :ets.new(@table, [:bag, :named_table, :protected, read_concurrency: true])
    {:ok, %{}}
  end

  @impl true
  def handle_call({:put, owner, {key, value}}, _from, owners) do
    # Each owner's last stub of a kind counts; a process may be allowed by several.
    if elem(key, 0) == :allow, do: :ets.delete_object(@table, {key, value}), else: :ets.delete(@table, key)
    :ets.insert(@table, {key, value})
    {:reply, :ok, Map.put_new_lazy(owners, owner, fn -> Process.monitor(owner) end)}
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, owner, _reason}, owners) do
    :ets.match_delete(@table, {{:stub, :_, :_, owner}, :_})
    :ets.match_delete(@table, {{:watch, :_, owner}, :_})
    :ets.match_delete(@table, {{:allow, :_}, owner})
    {:noreply, Map.delete(owners, owner)}
  end
end
