defmodule Snakepit.Decimal do
  @moduledoc """
  A decimal number, exact: Python's `decimal.Decimal` where the library `Decimal` is not loaded.

  With that library loaded, results have its own `%Decimal{}` instead. Both are sent as arguments alike, and have the
  same fields: the number is `sign * coef * 10 ** exp`, where `coef` may be `:NaN` or `:inf` as well.

      iex> price = Snakepit.Decimal.new("12.50")
      iex> {price.sign, price.coef, price.exp}
      {1, 1250, -2}
      iex> to_string(price)
      "12.50"

  It does not calculate; for that, add `{:decimal, "~> 2.0"}` to your dependencies.
  """

  defstruct sign: 1, coef: 0, exp: 0

  @type t :: %__MODULE__{sign: 1 | -1, coef: non_neg_integer() | :NaN | :inf, exp: integer()}

  @number ~r/\A([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d+))?/
  # As Python's: decimal.MIN_ETINY and decimal.MAX_EMAX.
  @exponents -1_999_999_999_999_999_997..999_999_999_999_999_999
  @exponent_digits 19
  # As many as cross to Python. To read more takes long: the square of their number.
  @most_digits 4_096

  @doc """
  A decimal of an integer, or of the text of one, which it keeps digit by digit. Raises `ArgumentError` for anything
  else, floats included, whose digits are not what they look like.

      iex> Snakepit.Decimal.new("-1.50E+3")
      Snakepit.Decimal.new("-1.50E+3")
      iex> Snakepit.Decimal.new(7).coef
      7
  """
  @spec new(integer() | String.t()) :: t()
  def new(integer) when is_integer(integer), do: made(if(integer < 0, do: -1, else: 1), abs(integer), 0)

  def new(text) when is_binary(text) do
    case parse(text) do
      {:ok, decimal} ->
        decimal

      :error ->
        raise ArgumentError,
              "expected the text of a decimal of at most #{@most_digits} digits, such as \"12.50\", got: " <>
                inspect(text, printable_limit: 100)
    end
  end

  def new(other) do
    raise ArgumentError,
          "expected an integer, or the text of a decimal such as \"12.50\", got: #{inspect(other)}"
  end

  @doc """
  A decimal of its whole text: digits with an optional point and exponent, `NaN`, `Infinity` or `-Infinity`, as
  `to_string/1` and Python write them. More digits than can cross to Python, 4096, are none.

      iex> Snakepit.Decimal.parse("0.10")
      {:ok, Snakepit.Decimal.new("0.10")}
      iex> Snakepit.Decimal.parse("0.10 EUR")
      :error
  """
  @spec parse(String.t()) :: {:ok, t()} | :error
  def parse(text) when is_binary(text) do
    case text do
      "NaN" -> {:ok, made(1, :NaN, 0)}
      infinite when infinite in ["Infinity", "+Infinity"] -> {:ok, made(1, :inf, 0)}
      "-Infinity" -> {:ok, made(-1, :inf, 0)}
      _ -> number(text, Regex.run(@number, text))
    end
  end

  defp number(text, [text, sign, whole | rest]) do
    [fraction, only_fraction, exponent] = Enum.map(0..2, &Enum.at(rest, &1, ""))
    fraction = fraction <> only_fraction

    with {:ok, coef} <- integer(whole <> fraction, @most_digits),
         {:ok, exponent} <- signed(exponent),
         exp = exponent - byte_size(fraction),
         true <- exp in @exponents do
      {:ok, made(if(sign == "-", do: -1, else: 1), coef, exp)}
    else
      _ -> :error
    end
  end

  defp number(_text, _no_number), do: :error

  defp signed("-" <> digits),
    do: with({:ok, exponent} <- integer(digits, @exponent_digits), do: {:ok, -exponent})

  defp signed(digits), do: digits |> String.trim_leading("+") |> integer(@exponent_digits)

  defp integer(digits, most) do
    case String.trim_leading(digits, "0") do
      "" -> {:ok, 0}
      digits when byte_size(digits) <= most -> {:ok, String.to_integer(digits)}
      _ -> :error
    end
  end

  defp made(sign, coef, exp), do: %__MODULE__{sign: sign, coef: coef, exp: exp}

  @doc """
  Its text, digit by digit, as Python's `str` writes it: with an exponent where that is positive, or far below the digits.

      iex> Snakepit.Decimal.to_string(%Snakepit.Decimal{coef: 5, exp: -3})
      "0.005"
      iex> Snakepit.Decimal.to_string(%Snakepit.Decimal{sign: -1, coef: 12, exp: 3})
      "-1.2E+4"
      iex> Snakepit.Decimal.to_string(%Snakepit.Decimal{coef: :NaN})
      "NaN"
  """
  @spec to_string(t()) :: String.t()
  def to_string(%__MODULE__{coef: :NaN}), do: "NaN"
  def to_string(%__MODULE__{coef: :inf, sign: sign}), do: minus(sign) <> "Infinity"

  def to_string(%__MODULE__{sign: sign, coef: coef, exp: exp}) when is_integer(coef) and coef >= 0 do
    digits = Integer.to_string(coef)
    # The exponent of its first digit.
    first = exp + byte_size(digits) - 1
    minus(sign) <> if exp <= 0 and first >= -6, do: plain(digits, exp), else: scientific(digits, first)
  end

  defp minus(-1), do: "-"
  defp minus(1), do: ""

  defp plain(digits, 0), do: digits

  defp plain(digits, exp) do
    {whole, fraction} = digits |> String.pad_leading(1 - exp, "0") |> String.split_at(exp)
    whole <> "." <> fraction
  end

  defp scientific(<<first::binary-size(1), rest::binary>>, exponent) do
    point = if rest == "", do: "", else: "."
    plus = if exponent >= 0, do: "+", else: ""
    "#{first}#{point}#{rest}E#{plus}#{exponent}"
  end

  defimpl String.Chars do
    defdelegate to_string(decimal), to: Snakepit.Decimal
  end

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(decimal, opts) do
      text = text(decimal)

      cond do
        # Only what new/1 takes is shown as a call of it.
        text -> ~s[Snakepit.Decimal.new("#{text}")]
        match?(%{sign: _, coef: _, exp: _}, decimal) -> Inspect.Any.inspect(decimal, opts)
        true -> concat(["#Snakepit.Decimal<", to_doc(Map.delete(decimal, :__struct__), opts), ">"])
      end
    end

    # nil of a struct of other values than it should have.
    defp text(decimal) do
      text = Snakepit.Decimal.to_string(decimal)
      if Snakepit.Decimal.parse(text) == {:ok, decimal}, do: text
    rescue
      _ -> nil
    end
  end
end
