defmodule Snakepit.Bench.FaultsTest do
  # A sample of `mix snakepit.bench faults`. Each VM counts what is its own, so that others may run meanwhile.
  use ExUnit.Case, async: true
  alias Snakepit.Bench.Faults

  @moduletag timeout: 600_000

  setup_all do
    {:ok, library} = Faults.library()
    %{library: library}
  end

  # Role, function, class of uses, name and number of the error, which use.
  @sample [
    {:vm, "memfd_create", :any, "EMFILE", 24, 2},
    {:vm, "fallocate", :any, "ENOSPC", 28, 1},
    {:vm, "mmap", :any, "ENOMEM", 12, 2},
    {:vm, "fcntl", :any, "EPERM", 1, 1},
    {:vm, "accept", :any, "EMFILE", 24, 2},
    {:vm, "sendmsg", :nonblocking, "EAGAIN", 11, 3},
    {:vm, "recv", :nonblocking, "EAGAIN", 11, 3},
    {:companion, "fork", :any, "EAGAIN", 11, 2},
    {:companion, "pipe2", :any, "EMFILE", 24, 1},
    {:companion, "poll", :any, "EINTR", 4, 3},
    {:worker, "memfd_create", :any, "ENOMEM", 12, 1},
    {:worker, "fallocate", :any, "ENOSPC", 28, 1},
    {:worker, "mmap", :any, "ENOMEM", 12, 1},
    {:worker, "recvmsg", :any, "ENOMEM", 12, 3},
    {:worker, "recv", :blocking, "EINTR", 4, 1}
  ]

  defp fault({role, function, class, name, errno, k}),
    do: %{role: role, function: function, class: class, name: name, errno: errno, k: k}

  test "a system call that fails once harms nothing, wherever it is", %{library: library} do
    faults = Enum.map(@sample, &fault/1)
    seen = Faults.make(library, faults)
    assert faults -- Enum.map(seen, &elem(&1, 0)) == []

    # A call on a machine that is busy with something else may not end by its deadline.
    for {fault, seen} <- seen do
      assert {Faults.words(fault), seen.happened, Faults.harm(seen)} == {Faults.words(fault), true, []}
    end
  end

  @tag :tmp_dir
  test "a VM that dies is noticed", %{library: library, tmp_dir: dir} do
    host = Faults.Host.start(library, dir)
    {_, 0} = System.cmd("kill", ["-9", to_string(host.os_pid)])
    assert {:ended, %{problems: [vm_death: "the VM" <> _]}} = Faults.Host.see(host, nil)
    Faults.Host.stop(host)
  end

  test "figures by call and errno" do
    seen = [
      {fault({:vm, "mmap", :any, "ENOMEM", 12, 1}), %{happened: true, problems: [], errors: ["refused"]}},
      {fault({:vm, "mmap", :any, "ENOMEM", 12, 2}), %{happened: true, problems: [vm_death: "x"], errors: []}},
      {fault({:worker, "recv", :blocking, "EINTR", 4, 1}),
       %{happened: true, problems: [leak: "y"], errors: []}}
    ]

    figures = for result <- Faults.figures(seen), into: %{}, do: {result.name, {result.value, result.unit}}

    assert %{
             "faults.made" => {3, ""},
             "faults.vm_deaths" => {1, ""},
             "faults.hangs" => {0, ""},
             "faults.wrong" => {0, ""},
             "faults.leaks" => {1, ""},
             "faults.vm.mmap.ENOMEM" => {1, "of 2"},
             "faults.worker.recv.EINTR" => {1, "of 1"}
           } = figures
  end
end
