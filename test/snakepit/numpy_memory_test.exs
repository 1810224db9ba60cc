defmodule Snakepit.NumpyMemoryTest do
  use Snakepit.Case, async: true

  @n 300_000

  defp made(pool, args \\ %{}, tool \\ "made") do
    args = Map.merge(%{n: @n, mark: 7}, args)
    {{:ok, [shared?, tensor]}, seen} = Snakepit.observe(tool, args, pool: pool, reply_transfer: :zero_copy)
    {shared?, tensor.data, seen}
  end

  test "an ordinary result is made where it is sent from, once one was copied" do
    pool = pool!(size: 1)

    for tool <- ["made", "made_later"] do
      assert eventually(fn -> match?({true, _, %{reply_way: :zero_copy}}, made(pool, %{}, tool)) end)

      for mark <- 1..50 do
        {_, data, _} = made(pool, %{mark: mark}, tool)
        assert data == :binary.copy(<<mark>>, @n)
      end
    end
  end

  test "what a tool keeps and changes later was copied" do
    pool = pool!(size: 1)

    results =
      for mark <- 1..200 do
        {_, data, _} = made(pool, %{mark: mark, keep: rem(mark, 3) == 0})
        {mark, data}
      end

    assert for({mark, data} <- results, data != :binary.copy(<<mark>>, @n), do: mark) == []
  end

  test "many callers, held results, sizes around the limit" do
    pool = pool!(size: 2, worker_profile: :thread, threads_per_worker: 2)

    wrong =
      1..4
      |> Enum.map(fn n ->
        Task.async(fn ->
          :rand.seed(:exsss, n)

          Enum.reduce(1..200, {[], []}, fn i, {wrong, held} ->
            size = Enum.random([131_071, 131_072, 131_073, @n, 4 * @n])
            mark = rem(n * 61 + i, 250)
            {_, data, _} = made(pool, %{n: size, mark: mark, keep: :rand.uniform(4) == 1})
            {now, held} = Enum.split([{mark, size, data} | held], 1)
            {gone, held} = {Enum.drop(held, 5), now ++ Enum.take(held, 5)}
            {wrong ++ for({mark, size, data} <- gone, data != :binary.copy(<<mark>>, size), do: {n, i}), held}
          end)
          |> elem(0)
        end)
      end)
      |> Task.await_many(60_000)
      |> List.flatten()

    assert wrong == []
  end

  test "a pool that does not want it does without" do
    pool = pool!(size: 1, numpy_memory: false)
    assert Enum.all?(1..30, fn _ -> match?({false, _, _}, made(pool)) end)
  end
end
