defmodule Snakepit.Wire.FuzzTermsTest do
  # Random terms, fit for Python and not: each comes back equal, or is refused with its place before a tool runs.
  use Snakepit.Case, async: true
  import Snakepit.Fuzzing
  import Snakepit.Terms, only: [back: 1]

  @moduletag :fuzz
  @moduletag timeout: :infinity
  @edges [64, 4096, 8192]

  setup_all do
    %{pool: pool!(chunk_size: 256 * 1024)}
  end

  defp supported do
    # Large ones take PropEr long.
    size = if below(200) == 0, do: 30, else: below(14)
    {:ok, term} = :proper_gen.pick(Snakepit.Terms.term(@edges), size, {below(1000), below(1000), below(1000)})
    term
  end

  defp ways,
    do:
      Enum.random([
        [],
        [request_transfer: Enum.random(Snakepit.Transfer.ways())],
        [reply_transfer: :zero_copy]
      ])

  # A leaf of what Python cannot hold, or not so.
  defp odd do
    Enum.random([
      self(),
      make_ref(),
      &odd/0,
      [1 | 2],
      <<255, 254>>,
      <<1::3>>,
      %{1.5 => 1},
      %{{1} => 2},
      %{:a => 1, "a" => 2},
      %{(2 ** 64) => 1},
      MapSet.new([:a, "a"]),
      MapSet.new([self()]),
      1..3,
      ~r/x/,
      %URI{},
      %{__struct__: :no_such_module},
      %{__struct__: 5},
      %Snakepit.Bytes{data: :no_binary},
      %Snakepit.Bytes{data: <<1::7>>},
      %Tensor{type: {:f, 32}, shape: {2}, names: [nil], data: <<1>>},
      %Tensor{type: {:f, 7}, shape: {}, names: [], data: <<>>},
      %Tensor{type: {:u, 8}, shape: {2 ** 63, 2 ** 63}, names: [nil, nil], data: <<>>},
      %Tensor{type: :none, shape: [1], names: nil, data: nil},
      %Date{year: 10_000, month: 1, day: 1},
      %Date{year: 2023, month: 2, day: 30, calendar: :none},
      %Time{hour: 25, minute: 0, second: 0, microsecond: {0, 7}},
      %Time{hour: 23, minute: 59, second: 60, microsecond: nil},
      %{DateTime.utc_now() | utc_offset: 10 ** 9},
      %{DateTime.utc_now() | time_zone: <<255>>},
      %Snakepit.Decimal{sign: 0, coef: -1, exp: 1.5},
      Enum.reduce(1..Enum.random([120, 128, 200, 5_000]), 1, fn _, inner -> [inner] end),
      Enum.reduce(1..Enum.random([60, 64, 200]), 1, fn _, inner -> {inner} end)
    ])
  end

  defp somewhere(term, 0), do: term

  defp somewhere(term, depth) do
    around =
      Enum.random([[term], {1, term}, %{"k" => term}, %{k: term}, [supported(), term], {term, supported()}])

    somewhere(around, depth - 1)
  end

  test "what Python can hold comes back equal, what it cannot hold is refused with its place", %{pool: pool} do
    make = fn ->
      if below(3) == 0,
        do: {:odd, somewhere(odd(), below(4)), []},
        else: {Enum.random(["identity", "fresh"]), supported(), ways()}
    end

    fuzz("beam: terms", make, &check(pool, &1))
  end

  defp check(pool, {:odd, term, []}) do
    case Snakepit.execute("identity", %{x: term}, pool: pool) do
      # A list within lists, or tuples, may be just deep enough.
      {:ok, _} ->
        if nesting(term) <= 128, do: :ok, else: :too_deep

      {:error, %Error{category: :validation, details: %{path: "args" <> _}} = error} ->
        if String.valid?(Exception.message(error)), do: :ok, else: error

      answer ->
        answer
    end
  end

  defp check(pool, {tool, term, ways}) do
    answer = Snakepit.execute(tool, %{x: term}, [pool: pool] ++ ways)
    if answer === {:ok, back(term)}, do: :ok, else: answer
  end

  defp nesting([first | _]), do: 1 + nesting(first)
  defp nesting(_other), do: 0
end
