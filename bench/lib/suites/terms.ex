defmodule Snakepit.Bench.Terms do
  @moduledoc """
  Structured data there and back, and one way, over the codecs that everybody would take: the floor of a round trip is the
  BEAM's `term_to_binary` and `binary_to_term` and msgpack's C `packb` and `unpackb` of the same value, in the same run.
  Each of both sides encodes once and decodes once, as a call does; the floor transfers nothing.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.Bench
  alias Snakepit.Bench.Result

  @impl true
  def name, do: "terms"

  @impl true
  def about, do: "lists, rows and maps, there and back and one way, over the BEAM's and msgpack's own codecs"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 20, else: 60)

  @impl true
  def needs, do: ["msgpack"]

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    rounds = if quick?, do: 9, else: 31

    Bench.with_pool([size: 1, timeout: 60_000], fn pool ->
      Enum.flat_map(values(), fn {kind, sent, back} ->
        progress.(kind)
        measured(pool, kind, sent, back, rounds)
      end)
    end)
  end

  # By kind: the value that is sent, and the one that comes back, in which atoms are strings.
  defp values do
    :rand.seed(:exsss, {1, 2, 3})

    rows = fn key ->
      for i <- 1..5_000,
          do: %{
            key.(:id) => i,
            key.(:name) => "row #{i}",
            key.(:price) => i * 1.5,
            key.(:ok) => rem(i, 3) == 0,
            key.(:none) => nil,
            key.(:tag) => "abcdef"
          }
    end

    strings = rows.(&Atom.to_string/1)

    same = [
      {"floats", for(_ <- 1..100_000, do: :rand.uniform())},
      {"ints", for(_ <- 1..100_000, do: :rand.uniform(1_000_000_000))},
      {"strings", for(i <- 1..20_000, do: "string number #{i}")},
      {"rows", strings},
      {"map", Map.new(1..10_000, &{"key #{&1}", &1})},
      {"nested", for(i <- 1..300, do: for(j <- 1..20, do: [i, [j, [i * j, ["leaf", []]]]]))}
    ]

    for({kind, value} <- same, do: {kind, value, value}) ++ [{"rows_of_atoms", rows.(& &1), strings}]
  end

  defp measured(pool, kind, sent, back, rounds) do
    call = fn command, args -> Snakepit.execute(command, args, pool: pool) end
    {:ok, size} = call.("keep_term", %{x: sent})
    there = fn -> {:ok, ^size} = call.("size_of", %{x: sent}) end
    from = fn -> {:ok, _} = call.("kept_term", %{}) end
    both = fn -> {:ok, _} = call.("echo", %{x: sent}) end
    # Compared once: in each round that would take as long as the call.
    {:ok, ^back} = call.("echo", %{x: sent})
    {:ok, ^back} = call.("kept_term", %{})
    binary = :erlang.term_to_binary(back)

    samples =
      for _ <- 1..rounds do
        {:ok, {pack, unpack}} = call.("msgpack_floor", %{})

        %{
          there: once(there),
          from: once(from),
          both: once(both),
          encode: once(fn -> :erlang.term_to_binary(sent) end),
          decode: once(fn -> :erlang.binary_to_term(binary) end),
          pack: pack,
          unpack: unpack
        }
      end

    floors = [
      {"to_python", :there, [:encode, :unpack], nil},
      {"from_python", :from, [:pack, :decode], nil},
      {"roundtrip", :both, [:encode, :unpack, :pack, :decode], {:at_most, 1.2}}
    ]

    Enum.flat_map(floors, fn {way, key, parts, target} ->
      over = for s <- samples, do: s[key] / Enum.sum(Enum.map(parts, &s[&1]))

      [
        Result.new("terms.#{kind}.#{way}.over_codec_floor", "ratio", over, target),
        Result.new("terms.#{kind}.#{way}", "ms", for(s <- samples, do: s[key] / 1.0e6))
      ]
    end) ++
      [
        Result.new("terms.#{kind}.beam_codec", "ms", for(s <- samples, do: (s.encode + s.decode) / 1.0e6)),
        Result.new("terms.#{kind}.msgpack", "ms", for(s <- samples, do: (s.pack + s.unpack) / 1.0e6))
      ]
  end

  # The caller's garbage is collected beforehand: that of another measurement is not this one's.
  defp once(fun) do
    :erlang.garbage_collect()
    [took] = Bench.times(1, fun)
    took
  end
end
