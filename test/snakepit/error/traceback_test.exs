defmodule Snakepit.Error.TracebackTest do
  use ExUnit.Case, async: true
  alias Snakepit.Error
  alias Snakepit.Error.{Text, Traceback}

  @pandas """
  Traceback (most recent call last):
    File "/home/me/app/tools.py", line 7, in load
      return frame["price"]
             ~~~~~^^^^^^^^^
    File "/venv/lib/python3.11/site-packages/pandas/core/frame.py", line 4102, in __getitem__
      indexer = self.columns.get_loc(key)
                ^^^^^^^^^^^^^^^^^^^^^^^^^
    File "/venv/lib/python3.11/site-packages/pandas/core/base.py", line 3812, in get_loc
      raise KeyError(key) from err
  KeyError: 'price'
  """

  test "the user's frames come first, those of libraries are counted" do
    assert Traceback.summary(@pandas, 3) ==
             [~S(/home/me/app/tools.py:7, in load: return frame["price"]), "… 2 frames of pandas"]
  end

  test "the raised exception of a chain is shown" do
    chain =
      String.replace(@pandas, "tools.py", "cause.py") <>
        "\nThe above exception was the direct cause of the following exception:\n\n" <> @pandas

    assert Traceback.summary(chain, 3) == Traceback.summary(@pandas, 3)
  end

  test "an exception group shows the frames that raised it, also without source lines and without the user's frames" do
    group = """
      + Exception Group Traceback (most recent call last):
      |   File "/app/a.py", line 1, in <module>
      |     raise ExceptionGroup("g", [ValueError(1)])
      | ExceptionGroup: g (1 sub-exception)
      +-+---------------- 1 ----------------
        | Traceback (most recent call last):
        |   File "/app/inner.py", line 2, in f
        | ValueError: 1
    """

    assert ["/app/a.py:1, in <module>: raise ExceptionGroup" <> _] = Traceback.summary(group, 3)

    library = """
      File "/usr/lib/python3.11/json/__init__.py", line 1, in loads
      File "<frozen importlib._bootstrap>", line 1, in _load
      File "/x/dist-packages/numpy/a.py", line 2, in f
    """

    assert Traceback.summary(library, 1) == ["/x/dist-packages/numpy/a.py:2, in f", "… 2 frames of Python"]
  end

  test "a recursion is counted, and its text is cut in the middle" do
    deep = """
    Traceback (most recent call last):
      File "/app/a.py", line 1, in top
        f()
      File "/app/a.py", line 2, in f
        f()
      [Previous line repeated 996 more times]
    RecursionError: maximum recursion depth exceeded
    """

    assert Traceback.summary(deep, 1) == ["/app/a.py:2, in f: f()", "… 1 frame of yours"]

    long =
      "Traceback:\n" <> String.duplicate("  File \"/app/a.py\", line 2, in f\n    f()\n", 50_000) <> "E: end"

    cut = Traceback.cut(long)
    assert cut =~ "Traceback:" and String.ends_with?(cut, "E: end") and cut =~ "left out"
    assert byte_size(cut) < 10_000
    assert [_, "… " <> _] = Traceback.summary(long, 1)
  end

  test "any text that a worker sends as a traceback is read in bounded work" do
    for text <- [
          "",
          "\n",
          "File \"\", line 1",
          String.duplicate("  File \"", 100_000),
          String.duplicate("ä", 70_000)
        ] do
      assert is_list(Traceback.summary(text, 3))
      assert String.valid?(Traceback.cut(text))
    end
  end

  test "a long message is cut with a note; a terminal's escapes are shown" do
    long = String.duplicate("é", 3_000_000)
    error = Error.new(:worker, :lost, "\e[31mred\n" <> long, command: "a\e", details: %{x: long})
    message = Exception.message(error)
    assert byte_size(message) < 9_000 and String.valid?(message) and message =~ "bytes left out"
    shown = inspect(error)
    assert shown =~ ~S(\u{1B}[31mred) and not String.contains?(shown, "\e")
    assert length(String.split(shown, "\n")) < 16 and String.length(shown) < 2_000
    assert inspect({:error, error}) =~ "{:error, #Snakepit.Error<:worker, :lost\n   tool "
  end

  test "text is cut between characters" do
    for n <- 1..20 do
      text = String.duplicate("aé☃😀", 30)
      assert String.valid?(Text.cut(text, n))
      assert String.valid?(Text.shorten(text, n)) and String.length(Text.shorten(text, n)) <= n
    end

    assert Text.cut("short", 5) == "short"
  end
end
