defmodule Snakepit.Python.Environment.LockTest do
  # Setups that meet, and one that is killed.
  # A VM and an installer start before anything is seen of them, beside other such tests: the waits are long.
  use Snakepit.Environments, async: true

  @moduletag vm: :second

  test "the second of two simultaneous setups waits, and then has nothing to do", %{
    tmp_dir: dir,
    links: links
  } do
    hold = Path.join(dir, "hold")

    first =
      Task.async(fn -> setup!(dir, [with: "tiny"] ++ offline(links), uv: true, env: [{"UV_HOLD", hold}]) end)

    eventually(fn -> File.exists?(hold) end, 24_000)
    second = open_setup(dir, [with: "tiny"] ++ offline(links), [])

    assert_receive {^second, {:data, {:eol, "Another setup of venv is under way: waiting for it to end"}}},
                   60_000

    File.write!(hold <> ".go", "")
    assert Task.await(first, 120_000) =~ "answer: ok"
    assert_receive {^second, {:data, {:eol, "The Python environment venv is complete, with tiny"}}}, 60_000
    assert_receive {^second, {:exit_status, 0}}, 60_000
    assert File.read!(Path.join(dir, "uv.log")) |> String.split("pip install") |> length() == 2
  end

  test "a killed setup leaves no installer running, and the next setup starts anew", %{
    tmp_dir: dir,
    links: links
  } do
    # While it makes the environment, and while it installs.
    for variable <- ["UV_HOLD_VENV", "UV_HOLD"] do
      hold = Path.join(dir, variable)
      port = open_setup(dir, [with: "tiny"] ++ offline(links), [{variable, hold}])

      pid =
        eventually(
          fn -> with({:ok, text} <- File.read(hold), do: text != "" && text, else: (_ -> nil)) end,
          24_000
        )

      {:os_pid, vm} = Port.info(port, :os_pid)
      {_, 0} = System.cmd("kill", ["-9", to_string(vm)])
      assert eventually(fn -> not alive?(pid) end, 24_000)
    end

    said = setup!(dir, [with: "tiny"] ++ offline(links), uv: true)
    assert said =~ "Installing snakepit, with tiny"
    assert said =~ "answer: ok"
    assert tiny(dir) == "1"
  end
end
