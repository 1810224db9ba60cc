defmodule Snakepit.Options do
  @moduledoc false
  # An option set is data: a keyword list of `key: [type:, default:, doc:, required:]`. The same list validates, fills
  # in defaults, renders the documentation and suggests the nearest key. Pure.
  #
  # Types: :boolean, :string, {:string, most_bytes}, :path (a string, or {application, string}: in its directory),
  # :atom, :pos_integer, :non_neg_integer, :timeout, :ms, :bytes ("64MB" or an integer), :ratio, {:number, low, high},
  # {:in, list}, {:range, first, last}, {:function, arity}, {:list_of, type}, {:or, types}, {:subset, list}, {:map_of,
  # key_type, value_type}, {:options, schema}: an option set of its own, whose defaults are filled in too.
  # :function_name: {module, function}, which a release can hold. :call: a command, or {command, arguments}; always the
  # latter afterwards.

  @type schema :: keyword(keyword())

  @longest_ms 2 ** 31 - 1

  @doc "The options as a map with defaults filled in, or a message that names the key."
  @spec validate(map() | keyword(), schema()) ::
          {:ok, map()} | {:error, key :: atom() | nil, message :: String.t()}
  def validate(given, schema) when is_list(given) do
    if Keyword.keyword?(given),
      do: given |> Map.new() |> validate(schema),
      else: {:error, nil, "expected a map or a keyword list, got: #{inspect(given)}"}
  end

  def validate(given, schema) when is_map(given) do
    with :ok <- known(Map.keys(given), schema) do
      Enum.reduce_while(schema, {:ok, %{}}, fn {key, spec}, {:ok, acc} ->
        case fetch(given, key, spec) do
          {:ok, value} -> {:cont, {:ok, Map.put(acc, key, value)}}
          {:error, message} -> {:halt, {:error, key, message}}
        end
      end)
    end
  end

  def validate(given, _schema), do: {:error, nil, "expected a map or a keyword list, got: #{inspect(given)}"}

  @doc "The options as a Markdown list."
  @spec docs(schema()) :: String.t()
  def docs(schema) do
    # An option without a doc is not for users.
    documented = Enum.filter(schema, fn {_key, spec} -> spec[:doc] end)

    Enum.map_join(documented, "\n", fn {key, spec} ->
      default =
        cond do
          spec[:required] -> "Required."
          match?({:options, _}, spec[:type]) -> ""
          Keyword.has_key?(spec, :default) -> "Default: `#{inspect(spec[:default])}`."
          true -> ""
        end

      line =
        "  * `#{inspect(key)}` (#{type_words(spec[:type])}): #{spec[:doc]} #{default}"
        |> String.trim_trailing()

      case spec[:type] do
        {:options, inner} -> line <> "\n" <> (inner |> docs() |> String.replace(~r/^/m, "  "))
        _ -> line
      end
    end)
  end

  @doc "The names most like `name`, for a suggestion."
  @spec nearest(atom() | String.t(), [atom() | String.t()]) :: atom() | String.t() | nil
  def nearest(name, names) do
    names
    |> Enum.map(&{String.jaro_distance(to_string(name), to_string(&1)), &1})
    |> Enum.filter(fn {likeness, _} -> likeness > 0.75 end)
    |> Enum.max(fn -> {0, nil} end)
    |> elem(1)
  end

  @doc "Bytes of `\"64MB\"`, `\"1.5 GiB\"` or an integer. Units are powers of 1024."
  @spec bytes(term()) :: {:ok, pos_integer()} | :error
  def bytes(n) when is_integer(n) and n > 0, do: {:ok, n}

  def bytes(text) when is_binary(text) do
    with [_, number, unit] <- Regex.run(~r/\A\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*\z/i, text),
         {value, ""} <- Float.parse(number),
         bytes when bytes >= 1 <- trunc(value * unit(String.upcase(unit))) do
      {:ok, bytes}
    else
      _ -> :error
    end
  end

  def bytes(_other), do: :error

  defp unit(""), do: 1
  defp unit("K"), do: 1024
  defp unit("M"), do: 1024 ** 2
  defp unit("G"), do: 1024 ** 3
  defp unit("T"), do: 1024 ** 4

  defp known(keys, schema) do
    case Enum.find(keys, &(not (is_atom(&1) and Keyword.has_key?(schema, &1)))) do
      nil ->
        :ok

      key ->
        known = Keyword.keys(schema)
        name = if is_atom(key) or is_binary(key), do: key, else: inspect(key)

        suggestion =
          case nearest(name, known) do
            nil -> "known are: #{Enum.map_join(known, ", ", &inspect/1)}"
            near -> "did you mean #{inspect(near)}?"
          end

        {:error, key, "unknown option #{inspect(key)}; #{suggestion}"}
    end
  end

  # Always a map with all its keys.
  defp fetch(given, key, [{:type, {:options, schema}} | _] = spec) do
    case given |> Map.get(key, spec[:default] || []) |> validate(schema) do
      {:ok, options} -> {:ok, options}
      {:error, nil, message} -> {:error, "#{inspect(key)}: #{message}"}
      {:error, _inner, message} -> {:error, "in #{inspect(key)}: #{message}"}
    end
  end

  defp fetch(given, key, spec) do
    case Map.fetch(given, key) do
      {:ok, value} ->
        case cast(spec[:type], value) do
          {:ok, value} ->
            {:ok, value}

          :error ->
            {:error, "expected #{inspect(key)} to be #{type_words(spec[:type])}, got: #{inspect(value)}"}
        end

      :error ->
        if spec[:required], do: {:error, "#{inspect(key)} is required"}, else: {:ok, spec[:default]}
    end
  end

  @doc false
  @spec cast(term(), term()) :: {:ok, term()} | :error
  def cast(:any, value), do: {:ok, value}
  def cast(:boolean, value) when is_boolean(value), do: {:ok, value}
  def cast(:string, value) when is_binary(value), do: if(String.valid?(value), do: {:ok, value}, else: :error)

  def cast({:string, most}, value) when is_binary(value) and byte_size(value) <= most,
    do: cast(:string, value)

  def cast(:path, {app, path}) do
    with {:ok, _} <- cast(:atom, app), {:ok, _} <- cast(:string, path), do: {:ok, {app, path}}
  end

  def cast(:path, value), do: cast(:string, value)
  def cast(:atom, value) when is_atom(value) and value not in [nil, true, false], do: {:ok, value}
  def cast(:pos_integer, value) when is_integer(value) and value > 0, do: {:ok, value}
  def cast(:non_neg_integer, value) when is_integer(value) and value >= 0, do: {:ok, value}
  def cast(:timeout, :infinity), do: {:ok, :infinity}
  # The VM's timers take at most 2^32 - 1, and some waits are a little longer than the option.
  def cast(:timeout, value) when value in 0..@longest_ms, do: {:ok, value}
  def cast(:ms, value) when value in 1..@longest_ms, do: {:ok, value}
  def cast(:bytes, value), do: bytes(value)

  def cast({:range, first, last}, value) when is_integer(value) and first <= value and value <= last,
    do: {:ok, value}

  def cast(:ratio, value) when is_number(value) and value > 0 and value <= 1, do: {:ok, value}

  def cast({:number, low, high}, value) when is_number(value) and low <= value and value <= high,
    do: {:ok, value}

  def cast({:function, arity}, value) when is_function(value, arity), do: {:ok, value}
  def cast({:in, list}, value), do: if(value in list, do: {:ok, value}, else: :error)

  # `length` in a guard: an improper list is no list.
  def cast({:list_of, type}, values) when length(values) >= 0 do
    cast = Enum.map(values, &cast(type, &1))
    if Enum.any?(cast, &(&1 == :error)), do: :error, else: {:ok, Enum.map(cast, &elem(&1, 1))}
  end

  def cast({:subset, list}, values) when length(values) > 0 do
    if Enum.all?(values, &(&1 in list)) and values == Enum.uniq(values), do: {:ok, values}, else: :error
  end

  def cast({:map_of, key_type, value_type}, value) when is_map(value) do
    cast = Enum.map(value, fn {k, v} -> {cast(key_type, k), cast(value_type, v)} end)

    if Enum.any?(cast, fn {k, v} -> k == :error or v == :error end),
      do: :error,
      else: {:ok, Map.new(cast, fn {{:ok, k}, {:ok, v}} -> {k, v} end)}
  end

  def cast(:function_name, {module, function})
      when is_atom(module) and is_atom(function) and nil not in [module, function],
      do: {:ok, {module, function}}

  def cast(:call, {command, args}) when is_map(args) and not is_struct(args) do
    with {:ok, command} <- command(command), do: {:ok, {command, args}}
  end

  def cast(:call, command) when not is_tuple(command), do: cast(:call, {command, %{}})
  def cast({:or, types}, value), do: Enum.find_value(types, :error, &or_nil(cast(&1, value)))
  def cast(_type, _value), do: :error

  defp command(name) when is_atom(name) and name not in [nil, true, false], do: {:ok, Atom.to_string(name)}
  defp command(name), do: cast(:string, name)

  defp or_nil(:error), do: nil
  defp or_nil(ok), do: ok

  defp type_words(:any), do: "anything"
  defp type_words(:boolean), do: "a boolean"
  defp type_words(:string), do: "a string"
  defp type_words({:string, most}), do: "a string of at most #{most} bytes"
  defp type_words(:path), do: "a path, or {:my_app, path} in that application's directory"
  defp type_words(:atom), do: "an atom"
  defp type_words(:pos_integer), do: "a positive integer"
  defp type_words(:non_neg_integer), do: "a non-negative integer"
  defp type_words(:timeout), do: "milliseconds (at most #{@longest_ms}) or :infinity"
  defp type_words(:ms), do: "milliseconds, 1 to #{@longest_ms}"
  defp type_words(:bytes), do: "a number of bytes, such as 4096 or \"64MB\""
  defp type_words(:ratio), do: "a number above 0 and at most 1"
  defp type_words({:number, low, high}), do: "a number from #{low} to #{high}"
  defp type_words({:function, arity}), do: "a function of #{arity} argument#{if arity != 1, do: "s"}"
  defp type_words({:in, list}), do: "one of #{Enum.map_join(list, ", ", &inspect/1)}"
  defp type_words({:range, first, last}), do: "an integer from #{first} to #{last}"
  defp type_words({:options, _schema}), do: "options"
  defp type_words({:list_of, type}), do: "a list of #{type_words(type)}"

  defp type_words({:subset, list}),
    do: "a list of some of #{Enum.map_join(list, ", ", &inspect/1)}, each once"

  defp type_words(:function_name), do: "{module, function}"
  defp type_words(:call), do: "a command, or {command, map of arguments}"
  defp type_words({:map_of, k, v}), do: "a map of #{type_words(k)} to #{type_words(v)}"
  defp type_words({:or, types}), do: Enum.map_join(types, " or ", &type_words/1)
end
