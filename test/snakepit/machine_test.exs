defmodule Snakepit.MachineTest do
  use ExUnit.Case, async: true
  alias Snakepit.Machine

  defp limits(text), do: for({limit, _, _} <- Machine.groups(text), do: limit)

  test "the memory groups of a process, and those above them" do
    root = "/sys/fs/cgroup"
    assert limits("0::/\n") == ["#{root}/memory.max"]

    assert limits("0::/system.slice/app.service\n") ==
             for(dir <- ["/system.slice/app.service", "/system.slice", ""], do: "#{root}#{dir}/memory.max")

    # Both versions at once; others than memory's say nothing.
    assert limits("4:memory:/a\n3:cpu,cpuset:/b\n2:blkio,memory:/\n0::/\n") ==
             ~w(/memory/a/memory.limit_in_bytes /memory/memory.limit_in_bytes /memory/memory.limit_in_bytes /memory.max)
             |> Enum.map(&(root <> &1))

    # Seen from inside a container.
    assert limits("0::/../..\n") == ["#{root}/memory.max"]
    for nothing <- ["", "x", "::", "1:cpu:/"], do: assert(limits(nothing) == [])
  end

  test "this machine" do
    assert Machine.memory() > 0
    assert {used, left} = Machine.memory_use()
    assert used > 0 and used < 1 and left > 0
    assert {busy, all} = Machine.cpu_times()
    assert busy > 0 and busy < all
  end
end
