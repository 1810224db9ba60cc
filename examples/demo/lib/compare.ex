defmodule Snakepit.Demo.Compare do
  @moduledoc false
  # The same bytes by each way in turn. One caller and one worker, so that nothing but the way differs; the ways take
  # turns, so that a slow moment of the machine meets all of them; the first round of each file only warms up.

  alias Snakepit.Demo.{Scan, SizeClass}
  alias Snakepit.Observation

  @files 3
  @rounds 6
  @least_rounds 3
  # No class takes much longer than this, whatever its files.
  @budget_ms 1_500
  # A message is copied several times on its way through gRPC, and all copies are in memory at once.
  @largest 256 * 1024 * 1024

  @type times :: %{atom() => [non_neg_integer()]}

  @doc "The ways this pool's workers can be reached by; what is missing, with the reason."
  @spec ways(atom()) :: {[atom()], [{atom(), String.t()}]}
  def ways(pool) do
    answers =
      for way <- [:zero_copy, :inline, :grpc] do
        {way, Snakepit.execute("size", %{data: Snakepit.bytes("")}, options(pool, way))}
      end

    missing = for {way, {:error, error}} <- answers, do: {way, error.message |> String.split("\n") |> hd()}
    {for({way, {:ok, 0}} <- answers, do: way), missing}
  end

  @doc "A few files of each class, spread over its sizes; those too large to be in memory several times are left out."
  @spec sample([Scan.file()]) :: [{SizeClass.t(), [Scan.file()]}]
  def sample(files) do
    by_class = files |> Enum.filter(&(&1.size <= @largest)) |> Enum.group_by(&SizeClass.of(&1.size))

    for class <- SizeClass.all(), files = by_class[class] do
      {class, files |> Enum.sort_by(& &1.size) |> spread(@files)}
    end
  end

  # The middle of each part of equal count.
  defp spread(files, count) do
    all = List.to_tuple(files)
    size = tuple_size(all)

    if size <= count,
      do: files,
      else: for(n <- 0..(count - 1), do: elem(all, div((2 * n + 1) * size, 2 * count)))
  end

  @doc "Transfer times of a class's sample by way. A file that cannot be read, or a call that fails, leaves no time."
  @spec measure([Scan.file()], [atom()], atom()) :: times()
  def measure(files, ways, pool) do
    contents = for file <- files, {:ok, data} <- [:file.read_file(file.path)], do: data
    until = System.monotonic_time(:millisecond) + @budget_ms
    rounds(contents, ways, pool, until, 0, %{})
  end

  defp rounds(contents, ways, pool, until, round, times) do
    late? = round >= @least_rounds and System.monotonic_time(:millisecond) > until

    if round > @rounds or late? or contents == [] do
      times
    else
      now = for data <- contents, way <- ways, ns <- turn(data, way, pool), do: {way, ns}
      times = if round == 0, do: times, else: add(times, now)
      rounds(contents, ways, pool, until, round + 1, times)
    end
  end

  defp add(times, now),
    do: Enum.reduce(now, times, fn {way, ns}, acc -> Map.update(acc, way, [ns], &[ns | &1]) end)

  # The first call after another way pays for that one's data in the caches: it is not counted.
  defp turn(data, way, pool) do
    [_first | others] = for _ <- 1..3, do: once(data, way, pool)
    Enum.reject(others, &is_nil/1)
  end

  defp once(data, way, pool) do
    size = byte_size(data)

    case Snakepit.observe("size", %{data: Snakepit.bytes(data)}, options(pool, way)) do
      {{:ok, ^size}, observation} -> Observation.transfer_ns(observation)
      _failed -> nil
    end
  end

  # One session is one worker.
  defp options(pool, way), do: [pool: pool, transfer: way, session_id: "compare", timeout: :infinity]
end
