defmodule Snakepit.DecimalTest do
  use Snakepit.Case, async: true

  alias Snakepit.Decimal
  doctest Snakepit.Decimal

  # As Python writes them.
  @texts ~w(0 1 -1 12.50 0.000001 1E-7 -1.5E-10 1E+3 -1.25E+30 0E+3 0.00 0E-7 -0 -0.0 NaN Infinity -Infinity
            123456789012345678901234567890.123456789 1E+999999999999999999)

  test "text and number are the same, both ways" do
    for text <- @texts do
      assert text |> Decimal.new() |> to_string() == text
      assert inspect(Decimal.new(text)) == ~s[Snakepit.Decimal.new("#{text}")]
    end
  end

  test "other ways to write them are read" do
    for {text, same} <- [
          {"+1", "1"},
          {"1.", "1"},
          {".5", "0.5"},
          {"1e3", "1E+3"},
          {"-1.5e+3", "-1.5E+3"},
          {"007", "7"}
        ],
        do: assert(text |> Decimal.new() |> to_string() == same)
  end

  test "a text that is no decimal is refused" do
    for text <- [
          "",
          "-",
          ".",
          "e1",
          "1e",
          "1 ",
          " 1",
          "1\n",
          "1,5",
          "0x1",
          "nan",
          "1E+9999999999999999999",
          "--1"
        ] do
      assert Decimal.parse(text) == :error
      assert_raise ArgumentError, ~r/expected the text of a decimal/, fn -> Decimal.new(text) end
    end

    assert_raise ArgumentError, ~r/expected an integer, or the text/, fn -> Decimal.new(1.5) end
  end

  test "more digits than Python can take are refused at once" do
    most = String.duplicate("7", 4_096)
    assert {:ok, _} = Decimal.parse(most)
    assert {:ok, %Decimal{exp: -4_095}} = Decimal.parse("7." <> binary_part(most, 1, 4_095))
    assert Decimal.parse(most <> "7") == :error
    assert Decimal.parse("0." <> most <> "7") == :error
    assert {:ok, %Decimal{coef: 1}} = Decimal.parse(String.duplicate("0", 1_000_000) <> "1")
    million = String.duplicate("7", 1_000_000)

    {us, _} =
      :timer.tc(fn ->
        for text <- [million, "0." <> million, "1E" <> million, "1E-" <> million],
            do: :error = Decimal.parse(text)
      end)

    assert us < 2_000_000
  end

  test "Python's smallest exponents are read; decimals that new/1 would refuse are inspected in another form" do
    for text <- ~w(1E-1000000000000000000 1E-1999999999999999997 1E+999999999999999999),
        do: assert(inspect(Decimal.new(text)) == ~s[Snakepit.Decimal.new("#{text}")])

    assert Decimal.parse("1E-1999999999999999998") == :error
    assert Decimal.parse("1E+1000000000000000000") == :error

    for fields <- [
          %{exp: -Integer.pow(10, 19)},
          %{coef: Integer.pow(10, 4_096)},
          %{sign: 2},
          %{exp: :a},
          %{coef: nil},
          %{coef: 1.5}
        ] do
      shown = inspect(Map.merge(%Decimal{}, fields))
      assert shown =~ "%Snakepit.Decimal{"
      refute shown =~ "Inspect.Error"
    end

    assert inspect(%{__struct__: Decimal, coef: 1}) == "#Snakepit.Decimal<%{coef: 1}>"
  end

  test "crosses to Python and back digit by digit" do
    pool = pool!()
    long = String.duplicate("7", 4_000)

    for text <- [long, "0." <> long, "1E-1000000000000000000" | @texts] do
      decimal = Decimal.new(text)
      assert {:ok, ^decimal} = Snakepit.execute("identity", %{x: decimal}, pool: pool)

      assert {:ok, ^decimal} =
               Snakepit.execute("python_value", %{code: "x = decimal.Decimal('#{text}')"}, pool: pool)

      assert {:ok, ^text} = Snakepit.execute("text", %{x: decimal}, pool: pool)
    end
  end

  test "a decimal out of range is an error with a suggestion, and the worker goes on" do
    pool = pool!()

    for code <- ["x = decimal.Decimal('sNaN')", "x = decimal.Decimal('7' * 5_000)"] do
      assert {:error, error} = Snakepit.execute("python_value", %{code: code}, pool: pool)
      assert error.category == :python_error
      assert error.message =~ ": return str(x)"
    end

    assert {:error, error} = Snakepit.execute("identity", %{x: %Decimal{coef: :nan}}, pool: pool)
    assert {error.category, error.details.path} == {:validation, "args.x"}

    for coef <- [-1, -Integer.pow(10, 30)] do
      assert {:error, error} = Snakepit.execute("identity", %{x: %Decimal{coef: coef}}, pool: pool)
      assert error.message =~ "args.x: a %Decimal{} whose coefficient is negative"
    end

    assert {:error, error} =
             Snakepit.execute("identity", %{x: %Decimal{coef: Integer.pow(10, 5_000)}}, pool: pool)

    assert error.message =~ "args.x: a decimal of more than 4096 digits"
    assert [%{restarts: 0}] = Snakepit.list_workers(pool)
  end
end
