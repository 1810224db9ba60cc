defmodule Snakepit.Bench.Faults.Control do
  @moduledoc false
  # The file that the processes of a swept VM map: what is to fail, and how often what was used
  # (native/snakepit_faults/src/control.rs has its layout).

  @size 128 * 1024
  @names_at 64 * 1024
  @counts_at 64 * 8
  @functions 128
  @roles [:vm, :companion, :worker]
  # As the library numbers them.
  @classes [:any, :nonblocking, :blocking, :file, :keeping]

  @type role :: :vm | :companion | :worker
  @type class :: :any | :nonblocking | :blocking | :file | :keeping
  @type use :: {role(), function :: String.t(), class()}
  @type fault :: %{
          role: role(),
          function: String.t(),
          class: class(),
          errno: pos_integer(),
          name: String.t(),
          k: pos_integer()
        }

  @spec create!(Path.t()) :: :ok
  def create!(path), do: File.write!(path, :binary.copy(<<0>>, @size))

  @doc "From now on uses are counted, and `fault` is made to happen, if one is given."
  @spec arm(Path.t(), fault() | nil) :: :ok
  def arm(path, fault) do
    write(path, 0, :binary.copy(<<0>>, @names_at))
    if fault, do: write(path, 8, words(path, fault))
    write(path, 0, <<1::64-native>>)
  end

  defp words(path, fault) do
    role = Enum.find_index(@roles, &(&1 == fault.role))
    function = Enum.find_index(names(path), &(&1 == fault.function))
    class = Enum.find_index(@classes, &(&1 == fault.class))
    for n <- [role, function, fault.errno, fault.k, class], into: <<>>, do: <<n::64-native>>
  end

  @spec disarm(Path.t()) :: :ok
  def disarm(path), do: write(path, 0, <<0::64-native>>)

  @doc "Whether the fault happened."
  @spec happened?(Path.t()) :: boolean()
  def happened?(path), do: read(path, 6 * 8, 8) != <<0::64>>

  @doc "How often each function was used since `arm/2`."
  @spec uses(Path.t()) :: %{use() => pos_integer()}
  def uses(path) do
    names = names(path)
    counts = read(path, @counts_at, length(@roles) * @functions * length(@classes) * 8)
    all = for role <- @roles, function <- 0..(@functions - 1), class <- @classes, do: {role, function, class}

    for {{role, function, class}, <<n::64-native>>} <-
          Enum.zip(all, for(<<w::binary-size(8) <- counts>>, do: w)),
        n > 0,
        into: %{},
        do: {{role, Enum.at(names, function), class}, n}
  end

  # Written by the library; none if it was not loaded.
  defp names(path) do
    path |> read(@names_at, 8_192) |> :binary.split(<<0>>) |> hd() |> String.split("\n", trim: true)
  end

  defp write(path, at, bytes), do: with_file(path, [:read, :write], &:file.pwrite(&1, at, bytes))

  defp read(path, at, size) do
    {:ok, bytes} = with_file(path, [:read], &:file.pread(&1, at, size))
    bytes
  end

  defp with_file(path, modes, fun) do
    {:ok, file} = :file.open(path, [:raw, :binary | modes])

    try do
      fun.(file)
    after
      :file.close(file)
    end
  end
end
