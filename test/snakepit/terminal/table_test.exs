defmodule Snakepit.Terminal.TableTest do
  use ExUnit.Case, async: true
  alias Snakepit.Terminal.Table

  test "columns are as wide as their widest cell, numbers stand at the right" do
    table = Table.format([{"name", :left}, {"µs", :right}], [["a", "1,000"], ["längstes", "2"]])

    assert IO.iodata_to_binary(table) == """
           name         µs
           ────────  ─────
           a         1,000
           längstes      2
           """
  end
end
