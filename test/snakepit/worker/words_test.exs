defmodule Snakepit.Worker.WordsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Worker.Words

  test "each way a process can end" do
    for {status, words} <- [
          {:companion_died, "the companion died, and the worker with it"},
          {{:status, 0}, "the worker exited"},
          {{:status, 7}, "the worker exited with status 7"},
          {{:signal, 11}, "the worker was killed by signal 11 (SIGSEGV)"},
          {{:signal, 40}, "the worker was killed by signal 40"},
          {{:signal, 9, {:out_of_memory, 400 * 1024 * 1024}},
           "the worker was killed by the kernel: memory ran out (its limit is 400 MiB)"},
          {{:signal, 9, {:out_of_memory, 1_572_864}},
           "the worker was killed by the kernel: memory ran out (its limit is 1.5 MiB)"},
          {{:signal, 9, :out_of_memory},
           "the worker was killed by signal 9 (SIGKILL), most likely by the kernel because memory ran out"}
        ] do
      assert Words.exit(status) == words
    end
  end
end
