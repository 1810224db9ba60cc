defmodule Snakepit.Terminal.NameTest do
  use ExUnit.Case, async: true
  alias Snakepit.Terminal.Name
  doctest Name

  test "control characters are escaped, letters of any script are not" do
    assert Name.show("ünï/日本") == "ünï/日本"
    assert Name.show("a\e[31m\r\a\0b") == "a\\u{1B}[31m\\r\\u{7}\\u{0}b"
    assert Name.show(<<0xC3>>) == "\\xC3"
    assert Name.show("\u200E") =~ "\\u{200E}" or String.printable?("\u200E")
  end

  test "any bytes become a printable string" do
    for _ <- 1..500 do
      assert 40 |> :rand.uniform() |> :crypto.strong_rand_bytes() |> Name.show() |> String.printable?()
    end
  end

  test "a name that fits is left alone" do
    assert Name.shorten("abc", 3) == "abc"
    assert Name.shorten("abcd", 3) == "…cd"
  end
end
