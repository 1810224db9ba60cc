defmodule Snakepit.CompanionTest do
  # What all pools share: the companion, and the descriptors and mappings of this VM. So nothing else runs meanwhile.
  use Snakepit.Case, async: false
  alias Snakepit.Bench.Footprint
  alias Snakepit.Companion

  defp companion_os_pid do
    {:os_pid, pid} = Companion |> :sys.get_state() |> Map.fetch!(:port) |> Port.info(:os_pid)
    pid
  end

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp serves_again(pool, old) do
    assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)
    assert eventually(fn -> not alive?(old) end)
  end

  @tag :tmp_dir
  test "when the companion is killed, its workers die with it, callers are told, and all comes back", %{
    tmp_dir: dir
  } do
    pools = [pool!(), pool!()]
    old = Enum.map(pools, &os_pid/1)
    {task, _go_on} = busy(hd(pools), dir)
    companion = companion_os_pid()
    {_, 0} = System.cmd("kill", ["-9", to_string(companion)])
    assert {:error, %Error{category: :worker} = error} = Task.await(task, 20_000)
    assert error.message =~ "companion"
    for {pool, pid} <- Enum.zip(pools, old), do: serves_again(pool, pid)
    refute companion_os_pid() == companion
    assert pool!() |> os_pid() |> is_integer()
  end

  @tag :tmp_dir
  test "when the companion's own process crashes, the same", %{tmp_dir: dir} do
    pools = [pool!(), pool!()]
    old = Enum.map(pools, &os_pid/1)
    {task, _go_on} = busy(hd(pools), dir)
    Companion |> Process.whereis() |> Process.exit(:kill)
    assert {:error, %Error{}} = Task.await(task, 20_000)
    for {pool, pid} <- Enum.zip(pools, old), do: serves_again(pool, pid)
    assert pool!() |> os_pid() |> is_integer()
  end

  defp use_and_stop(uses) do
    pool = pool!(size: 2, chunk_size: "1MB")
    uses.(pool)
    :ok = Snakepit.stop_pool(pool)
  end

  # The first use warms up what stays (a logger, a thread); the others must add nothing to it.
  defp leaves_nothing(uses, times) do
    use_and_stop(uses)
    # Workers are other tests' business: no process has this mark.
    take = fn -> Footprint.take("no process has this") end
    before = eventually(fn -> take.() == take.() && take.() end)
    for _ <- 1..times, do: use_and_stop(uses)
    assert eventually(fn -> Footprint.nothing?(Footprint.growth(before, take.())) end)
  end

  test "nothing is left of a pool that moved much: no descriptor, no mapping" do
    heavy = fn pool ->
      tasks =
        for n <- 1..4 do
          Task.async(fn ->
            data = :binary.copy(<<n>>, 3_000_000)

            for transfer <- [:zero_copy, :inline, :grpc, :auto] do
              {:ok, ^data} =
                Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: transfer)

              {:ok, x} = Snakepit.execute("ones", %{n: 2_000_000}, pool: pool, transfer: transfer)
              {:ok, 2_000_000} = Snakepit.execute("total", %{x: x}, pool: pool)
            end

            :ok
          end)
        end

      assert Enum.uniq(Task.await_many(tasks, 60_000)) == [:ok]
    end

    leaves_nothing(heavy, 2)
  end

  test "nothing is left of workers that died in the middle of large transfers, or never started" do
    data = :binary.copy("x", 3_000_000)

    mishaps = fn pool ->
      {:ok, _} = Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
      {:error, _} = Snakepit.execute("die", %{}, pool: pool)
      {:error, _} = Snakepit.execute("wait_for_file", %{path: "/no/such"}, pool: pool, timeout: 20)
      {:ok, _} = Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
      {:error, _} = Snakepit.start_pool(%{name: :never_starts, size: 2, python_module: "no_such_module"})

      {:error, _} =
        Snakepit.start_pool(%{name: :never_starts, size: 1, python_module: "x", python: "/no/such"})
    end

    leaves_nothing(mishaps, 3)
  end

  test "sockets are removed from the private directory, which is this user's alone" do
    pool = pool!()
    {:ok, _} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, transfer: :grpc)
    dir = Snakepit.Runtime.dir()
    assert Bitwise.band(File.stat!(dir).mode, 0o777) == 0o700
    assert Enum.filter(File.ls!(dir), &String.ends_with?(&1, ".sock")) == []
    Snakepit.stop_pool(pool)
    assert File.ls!(dir) == []
  end
end
