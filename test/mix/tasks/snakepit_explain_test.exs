defmodule Mix.Tasks.Snakepit.ExplainTest do
  # The tasks as their user runs them: a VM of its own.
  use ExUnit.Case, async: true

  defp mix(args), do: System.cmd("mix", args, stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])

  test "shows which way every size goes, and one size in detail" do
    assert {out, 0} = mix(~w(snakepit.explain --size 64KB --type tensor))
    assert out =~ "data of type tensor" and out =~ "Arguments" and out =~ "Results"
    # Nothing was measured here, and nothing is made up.
    assert out =~ "not measured, or not certain enough: the threshold" and out =~ "assumed"
    assert out =~ "Shared memory is taken from 10.0 MiB on; from where on it is cheapest is not known."
    refute out =~ "\e"
  end

  test "a calibration measures, shows what it found, and keeps it" do
    assert {out, 0} = mix(~w(snakepit.calibrate --seconds 2))
    assert out =~ ~r/\d+ probes in \d+ ms; an empty call takes/
    assert [_, path] = Regex.run(~r/Kept in (\S+)\./, out)
    assert File.exists?(path)
    # How far the two seconds reach is the machine's affair: below 1 MiB in any case.
    assert out =~ ~r/^1\.0 KiB – /m
    refute out =~ ~r/^\S+ (B|KiB) – .*not measured/m
    assert length(Regex.scan(~r/^Shared memory is .*; .*\.$/m, out)) == 2
  end

  test "options that are wrong" do
    assert {"** (Mix) snakepit.explain: --size" <> _, 1} = mix(~w(snakepit.explain --size big))
    assert {"** (Mix) snakepit.explain: --type" <> _, 1} = mix(~w(snakepit.explain --type picture))
    assert {out, 1} = mix(~w(snakepit.explain --pool nowhere))
    assert out =~ "there is no pool nowhere"
    assert {"** (Mix) snakepit.calibrate: --seconds" <> _, 1} = mix(~w(snakepit.calibrate --seconds 0))
    for task <- ["snakepit.explain", "snakepit.calibrate"], do: assert({_, 0} = mix([task, "--help"]))
  end
end
