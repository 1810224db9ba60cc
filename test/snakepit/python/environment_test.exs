defmodule Snakepit.Python.EnvironmentTest do
  # Who makes an environment, and who extends it.
  use Snakepit.Environments, async: true

  @moduletag vm: :second

  test "venv and pip make an environment from wheels, whose requirements are kept and installed again when they change",
       %{
         tmp_dir: dir,
         links: links
       } do
    file = Path.join(dir, "r.txt")
    File.write!(file, "tiny==1.0\n")
    said = setup!(dir, offline(links), config: [requirements: "r.txt"])
    assert said =~ "Making a virtual environment in venv"
    assert said =~ "is complete, with r.txt\nanswer: ok"
    assert tiny(dir) == "1"

    # Nothing to do, by whoever runs it: nobody is asked for anything.
    said = setup!(dir, [], config: [requirements: "r.txt"], uv: true)
    assert said =~ ~r/\AThe Python environment venv is complete, with r.txt\nanswer: ok/
    refute File.exists?(Path.join(dir, "uv.log"))

    # A line more, and a wheel of the same version with something else in it.
    again = wheel!(Path.join(dir, "local"), "tiny", "1.0", "X = 2\n")
    File.write!(file, "#{again}\n")

    said = setup!(dir, offline(links), config: [requirements: ["-r r.txt"]])
    assert said =~ "Installing snakepit, with r.txt"
    assert said =~ "answer: ok"

    assert tiny(dir) == "2"
    wheel!(Path.join(dir, "local"), "tiny", "1.0", "X = 3\n")
    # uv extends what it did not make.
    assert setup!(dir, offline(links), config: [requirements: ["-r r.txt"]], uv: true) =~ "answer: ok"
    assert tiny(dir) == "3"

    # Taken out of the file it stays, except by force.
    File.write!(file, "")
    setup!(dir, offline(links), config: [requirements: "r.txt"], uv: true)
    assert tiny(dir) == "3"
    setup!(dir, [force: true] ++ offline(links), config: [requirements: "r.txt"], uv: true)
    assert tiny(dir) == :none
  end

  test "an environment that uv made, without pip, is extended without uv", %{tmp_dir: dir, links: links} do
    assert setup!(dir, offline(links), uv: true) =~ "answer: ok"
    refute File.exists?(Path.join(dir, "venv/bin/pip"))
    assert setup!(dir, [with: "tiny"] ++ offline(links)) =~ "is complete, with tiny\nanswer: ok"
    assert tiny(dir) == "1"
    # Made anew, it has what was asked for before.
    assert setup!(dir, [force: true] ++ offline(links), uv: true) =~ "is complete, with tiny\nanswer: ok"
    assert tiny(dir) == "1"

    assert setup!(dir, [force: true, forget: true] ++ offline(links), uv: true) =~
             "venv is complete\nanswer: ok"

    assert tiny(dir) == :none
  end
end
