defmodule Snakepit.Python.Environment.SetupFailureTest do
  # What a failed installation leaves, and what it says.
  use Snakepit.Environments, async: true

  @moduletag vm: :second

  test "a package that cannot be installed is an error; the environment keeps its packages, and the next setup installs again",
       %{
         tmp_dir: dir,
         links: links
       } do
    assert setup!(dir, [with: "tiny"] ++ offline(links), uv: true) =~ "answer: ok"
    said = setup!(dir, [with: "no-such-package", installer: :pip] ++ offline(links), uv: true)
    assert said =~ "answer: {:validation, :setup_failed, :not_found}"
    assert said =~ "pip finds no such package"
    assert tiny(dir) == "1"
    # That name is not kept, tiny is; what is installed counts as unfinished.
    said = setup!(dir, offline(links), uv: true)
    assert said =~ "Installing snakepit, with tiny"
    assert said =~ "is complete, with tiny\nanswer: ok"
    refute File.read!(Path.join(dir, "venv/snakepit.stamp")) =~ "no-such-package"
  end

  test "indexes and arguments reach the installer; a password is neither printed nor stored", %{
    tmp_dir: dir,
    links: links
  } do
    index = "https://me:secret@h.invalid"
    options = [with: "tiny", index_url: index, offline: true, installer_args: ["--pre"]]
    said = setup!(dir, options, uv: true, env: [{"UV_FAIL", "1"}])
    assert said =~ "answer: {:pool, :setup_failed, :no_network}"
    assert said =~ "uv cannot reach https://****@h.invalid"
    refute said =~ "secret"
    assert File.read!(Path.join(dir, "uv.log")) =~ ~r/ --index-url #{index} --offline .* tiny --pre$/m
    # The directory is made by then.
    assert setup!(dir, [with: "tiny", extra_index_url: [index]] ++ offline(links), uv: true) =~ "answer: ok"
    refute File.read!(Path.join(dir, "venv/snakepit.stamp")) =~ ~r/secret|h\.invalid/

    said = setup!(dir, [find_links: "nowhere"], uv: true, config: [requirements: ["six"]])
    assert said =~ "--find-links nowhere: there is no such directory"
  end

  test "a place that cannot be used is an error that names the setting",
       %{tmp_dir: dir} do
    said = setup!(dir, [], uv: true, config: [venv: "/sys/snakepit/venv"])
    assert said =~ "answer: {:pool, :setup_failed, nil}"

    assert said =~
             ~r/could not make directory.*"\/sys\/snakepit": .*name another place with `config :snakepit, venv:`/

    File.mkdir_p!(Path.join(dir, "venv"))
    File.write!(Path.join(dir, "venv/mine.txt"), "")
    assert setup!(dir, [], uv: true) =~ "is there and is no virtual environment"
    assert File.exists?(Path.join(dir, "venv/mine.txt"))
  end
end
