defmodule Snakepit.Fuzzing do
  @moduledoc false
  # Tests with random inputs: a second for each target by default, `SNAKEPIT_FUZZ_SECONDS=600` for a long run
  # (`bin/fuzz`). What fails names its seed and its number: `SNAKEPIT_FUZZ_SEED=SEED SNAKEPIT_FUZZ_INPUT=NUMBER` runs
  # that input alone.

  # Numbers that decoders stumble over.
  @edges [0, 1, 31, 32, 63, 64, 127, 255, 65_535, 2 ** 31 - 1, 2 ** 32 - 1, 2 ** 32, 2 ** 63 - 1, 2 ** 64 - 1]
  # By so much may the memory of the VM grow, whatever its inputs claim.
  @growth 256 * 1024 * 1024

  @doc """
  Fails unless `check` answers `:ok` for one input after the other. `make` makes them, from `:rand` alone.
  """
  @spec fuzz(String.t(), (() -> input), (input -> :ok | term())) :: :ok when input: term()
  def fuzz(target, make, check) do
    # Those of other tests are collected before, not meanwhile.
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    before = :erlang.memory(:total)
    until = System.monotonic_time(:millisecond) + trunc(1000 * seconds())
    first = number("SNAKEPIT_FUZZ_INPUT")
    count = loop(target, make, check, first || 0, if(first, do: 0, else: until))
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    grown = :erlang.memory(:total) - before
    if grown > @growth, do: ExUnit.Assertions.flunk("#{target}: the VM grew by #{grown} bytes")
    if System.get_env("SNAKEPIT_FUZZ_SECONDS"), do: IO.puts("#{target}: #{count} inputs")
    :ok
  end

  defp loop(target, make, check, number, until) do
    seed = number("SNAKEPIT_FUZZ_SEED") || 1
    :rand.seed(:exsss, {:erlang.phash2(target), seed, number})
    input = make.()

    answer =
      try do
        check.(input)
      catch
        kind, reason -> Exception.format(kind, reason, __STACKTRACE__)
      end

    if answer != :ok do
      shown = if is_binary(answer), do: answer, else: inspect(answer, limit: 50)

      ExUnit.Assertions.flunk("""
      #{target}: SNAKEPIT_FUZZ_SEED=#{seed} SNAKEPIT_FUZZ_INPUT=#{number}
      #{shown}
      #{inspect(input, limit: 5_000, printable_limit: 5_000)}
      """)
    end

    if System.monotonic_time(:millisecond) < until,
      do: loop(target, make, check, number + 1, until),
      else: number + 1
  end

  @doc "How long each target runs."
  @spec seconds() :: float()
  def seconds do
    {seconds, ""} = Float.parse(System.get_env("SNAKEPIT_FUZZ_SECONDS", "1"))
    seconds
  end

  defp number(name) do
    with text when is_binary(text) <- System.get_env(name), do: String.to_integer(text)
  end

  @doc "The bytes after up to five changes: to a byte, a bit or a number, cut out, repeated, or spliced with others."
  @spec damaged(binary(), [binary()]) :: binary()
  def damaged(bytes, corpus),
    do: Enum.reduce(1..:rand.uniform(6)//1, bytes, fn _, bytes -> damage(bytes, corpus) end)

  defp damage("", _corpus), do: ""

  defp damage(bytes, corpus) do
    # Often where the header and the table are, which tell most.
    at = below(min(byte_size(bytes), Enum.random([32, 100, byte_size(bytes)])))
    <<before::binary-size(at), byte, rest::binary>> = bytes

    case :rand.uniform(7) do
      1 -> <<before::binary, below(256), rest::binary>>
      2 -> <<before::binary, Bitwise.bxor(byte, Bitwise.bsl(1, below(8))), rest::binary>>
      3 -> overwrite(bytes, at, a_number(Enum.random([8, 16, 32, 64])))
      4 -> before <> drop(<<byte, rest::binary>>, Enum.random([1, 4, 32, byte_size(bytes)]))
      5 -> before <> take(<<byte, rest::binary>>, 1 + below(200)) <> <<byte, rest::binary>>
      6 -> before <> tail(Enum.random(corpus))
      7 -> bytes
    end
  end

  defp a_number(bits) do
    number = Enum.random(@edges)
    if below(2) == 0, do: <<number::size(bits)-big>>, else: <<number::size(bits)-little>>
  end

  defp overwrite(bytes, at, number) do
    number = take(number, byte_size(bytes) - at)
    take(bytes, at) <> number <> drop(bytes, at + byte_size(number))
  end

  defp take(bytes, n), do: binary_part(bytes, 0, min(n, byte_size(bytes)))
  defp drop(bytes, n), do: binary_part(bytes, byte_size(bytes), -max(byte_size(bytes) - n, 0))
  defp tail(bytes), do: drop(bytes, below(byte_size(bytes)))

  @doc "A random integer from 0 to below `n`."
  @spec below(pos_integer()) :: non_neg_integer()
  def below(n), do: :rand.uniform(n) - 1
end
