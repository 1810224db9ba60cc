defmodule Snakepit.Bench.Faults do
  @moduledoc """
  Every call of libc that Snakepit makes on memory, descriptors, files and sockets fails once: in the VM, in the companion
  and in the workers.

  A library that is loaded before all others (`LD_PRELOAD`, native/snakepit_faults) counts the uses of each function over the
  whole life of a pool, and then makes the k-th one fail with an errno that the kernel may answer there. It knows which uses
  are Snakepit's, which `strace -e inject` does not. After each fault every call must have ended in its right answer or in an
  error, all must work again, and nothing may be left.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.Bench.Faults.{Control, Host, Possible}
  alias Snakepit.Bench.Result

  # Scenarios that run at once: they mostly wait for processes to start.
  @hosts 2
  @full 400
  @quick 40

  @kinds [vm_death: "vm_deaths", hang: "hangs", wrong: "wrong", leak: "leaks"]

  @type seen :: {Control.fault(), Host.seen()}

  @impl true
  def name, do: "faults"

  @impl true
  def about, do: "each system call fails once: the VM lives, calls end rightly, nothing is left"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 120, else: 900)

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    case library() do
      {:ok, library} -> sweep(library, if(quick?, do: @quick, else: @full), progress)
      {:error, why} -> [Result.absent("faults", why)]
    end
  end

  defp sweep(library, most, progress) do
    progress.("counting")
    faults = plan(library, most)
    done = :counters.new(1, [])

    show = fn {fault, %{problems: problems}} ->
      :counters.add(done, 1, 1)
      progress.("#{:counters.get(done, 1)} of #{length(faults)}")
      # A count alone mends nothing.
      for {kind, words} <- problems, do: Mix.shell().error("\n#{words(fault)}: #{kind}: #{words}")
    end

    library |> make(faults, show) |> figures()
  end

  @doc "Builds the library that makes calls fail."
  @spec library() :: {:ok, Path.t()} | {:error, String.t()}
  def library, do: Snakepit.Bench.Cargo.library("snakepit_faults")

  @doc """
  Up to `most` faults of what one scenario uses: first one of each function of each role, then another one of each, and so on.
  Raises if the scenario finds something wrong though nothing failed.
  """
  @spec plan(Path.t(), pos_integer()) :: [Control.fault()]
  def plan(library, most) do
    host = Host.start(library, directory())
    {_, seen} = Host.see(host, nil)
    uses = Host.uses(host)
    Host.stop(host)
    if seen.problems != [], do: raise("without any fault: #{inspect(seen.problems)}")
    uses |> faults() |> spread(most)
  end

  @doc "Makes these faults happen, in as few VMs as will do; what was seen of each that did, also reported as it comes."
  @spec make(Path.t(), [Control.fault()], (seen() -> any())) :: [seen()]
  def make(library, faults, show \\ fn _ -> :ok end) do
    0..(@hosts - 1)
    |> Enum.map(fn n -> faults |> Enum.drop(n) |> Enum.take_every(@hosts) end)
    |> Enum.map(fn share -> Task.async(fn -> in_turn(library, share, nil, show) end) end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
  end

  defp in_turn(_library, [], host, _show) do
    if host, do: Host.stop(host)
    []
  end

  defp in_turn(library, [fault | rest], host, show) do
    host = host || Host.start(library, directory())
    {state, seen} = Host.see(host, fault)
    show.({fault, seen})
    # Problems that one fault left would be counted for the next.
    host = if state == :ok and seen.problems == [], do: host, else: Host.stop(host) && nil
    # A count that differs from run to run: it was used less often this time.
    if seen.happened or seen.problems != [],
      do: [{fault, seen} | in_turn(library, rest, host, show)],
      else: in_turn(library, rest, host, show)
  end

  defp directory do
    dir =
      Path.join(System.tmp_dir!(), "snakepit_faults_#{System.pid()}_#{System.unique_integer([:positive])}")

    File.mkdir_p!(dir)
    dir
  end

  # For each use that may fail: the first three, the one in the middle and the last.
  defp faults(uses) do
    for {{role, function, class}, n} <- Enum.sort(uses),
        {name, errno, ^class} <- Possible.errors(function),
        k <- Enum.uniq([1, div(n + 1, 2), n, 2, 3]),
        k <= n,
        do: %{role: role, function: function, class: class, errno: errno, name: name, k: k}
  end

  # First one fault of each function of each role, then another one of each, and so on.
  defp spread(faults, most) do
    faults
    |> Enum.group_by(&{&1.role, &1.function})
    |> Enum.flat_map(fn {{role, function}, all} ->
      # Errors in turn, so that few faults have many of them.
      all
      |> Enum.group_by(& &1.name)
      |> Enum.flat_map(fn {_, same} -> Enum.with_index(same) end)
      |> Enum.sort_by(fn {fault, nth} -> {nth, :erlang.phash2({role, function, fault.name})} end)
      |> Enum.with_index()
      |> Enum.map(fn {{fault, _}, at} -> {at, fault} end)
    end)
    |> Enum.sort_by(fn {at, fault} -> {at, :erlang.phash2(fault)} end)
    |> Enum.map(&elem(&1, 1))
    |> Enum.take(most)
  end

  @doc "The counts of what went wrong, and for each call and errno how many of its faults did."
  @spec figures([seen()]) :: [Result.t()]
  def figures(seen) do
    totals = for {kind, name} <- @kinds, do: count("faults." <> name, problems(seen, kind), {:at_most, 0})

    by_call =
      seen |> Enum.group_by(fn {fault, _} -> {fault.role, fault.function, fault.name} end) |> Enum.sort()

    late = count("faults.ended_by_deadline", problems(seen, :late))

    [count("faults.made", length(seen)) | totals] ++
      [late] ++
      for {{role, function, errno}, some} <- by_call do
        bad = Enum.count(some, fn {_, seen} -> harm(seen) != [] end)
        %{count("faults.#{role}.#{function}.#{errno}", bad, {:at_most, 0}) | unit: "of #{length(some)}"}
      end
  end

  @doc "The problems, but for calls that ended by their deadline: they end as they should."
  @spec harm(Host.seen()) :: [{atom(), String.t()}]
  def harm(%{problems: problems}), do: Enum.reject(problems, &match?({:late, _}, &1))

  @doc "The fault, in words."
  @spec words(Control.fault()) :: String.t()
  def words(fault), do: "#{fault.role}: #{fault.function} #{fault.name}, use #{fault.k} (#{fault.class})"

  defp problems(seen, kind),
    do: Enum.count(seen, fn {_, %{problems: problems}} -> List.keymember?(problems, kind, 0) end)

  defp count(name, n, target \\ nil), do: Result.new(name, "", [n], target)
end
