defmodule Snakepit.Python.Environment.Failure do
  @moduledoc false
  # Turns the output of a failed uv or pip into a cause and a message that says what to do. Pure, but reads a line of a
  # file.

  alias Snakepit.Error
  alias Snakepit.Python.Environment.Requirement

  @tail 12
  # A conflict takes many lines, and each may be the important one.
  @conflict 25

  @type cause ::
          :bad_requirement
          | :no_network
          | :not_found
          | :conflict
          | :no_compiler
          | :build_failed
          | :disk_full
          | :not_writable
          | :unknown

  # The first that matches. A package that is not found comes last, because pip says the same when it reaches no index.
  @causes [
    disk_full: ~r/No space left on device|ENOSPC|os error 28/,
    not_writable: ~r/Permission denied|Read-only file system|os error (13|30)\b/,
    bad_requirement:
      ~r/Invalid requirement:|Couldn't parse requirement|Failed to parse:|InvalidRequirement|Unsupported requirement/,
    no_compiler:
      ~r/command '[^']*(gcc|cc|g\+\+|c\+\+|clang)[^']*' failed: No such file|unable to execute '?[^' ]*(gcc|cc|g\+\+|clang)|No acceptable C compiler|Unknown compiler\(s\)|no C compiler|error: Microsoft Visual|Python\.h: No such file|can't find Rust compiler|error: linker `cc` not found/i,
    build_failed:
      ~r/Failed to build|metadata-generation-failed|Failed building wheel|subprocess-exited-with-error|did not run successfully/,
    no_network:
      ~r/NewConnectionError|Failed to establish a new connection|ConnectTimeoutError|ReadTimeoutError|ProxyError|Name or service not known|Temporary failure in name resolution|dns error|tcp connect error|client error \(Connect\)|Network is unreachable|CERTIFICATE_VERIFY_FAILED|invalid peer certificate|SSLError|Network connectivity is disabled/,
    conflict:
      ~r/ResolutionImpossible|conflicting dependencies|depends? on .* and .*(depends? on|you require)|you require .* and .*you? require|you require \S+==\S* and \S+==/s,
    not_found:
      ~r/No matching distribution found|was not found in|Could not find a version|no version of|there (is|are) no versions? of/
  ]

  @doc "The cause, and the error's message: what failed, what the installer said of it, what to do."
  @spec explain(String.t(), String.t()) :: {cause(), String.t()}
  def explain(installer, text) do
    text = Requirement.scrub(text)
    cause = Enum.find_value(@causes, :unknown, fn {cause, regex} -> if text =~ regex, do: cause end)
    {cause, words(cause, installer, text)}
  end

  @doc "As `explain/2`, as an error. The status is shown if the output is empty."
  @spec error(String.t(), String.t(), non_neg_integer()) :: Error.t()
  def error(installer, text, status) do
    {cause, message} = explain(installer, text)
    message = if cause == :unknown, do: "#{installer} failed#{last_words(text, @tail, status)}", else: message
    category = if cause in [:bad_requirement, :not_found, :conflict], do: :validation, else: :pool
    Error.new(category, :setup_failed, message, details: %{cause: cause})
  end

  defp words(:disk_full, installer, text),
    do: "#{installer} ran out of disk space; its last lines:\n\n#{last_lines(text, 4)}"

  defp words(:not_writable, installer, text) do
    "#{installer} may not write where it has to: run this as a user who may, or name another place with " <>
      "`config :snakepit, venv:`. Its last lines:\n\n#{last_lines(text, 4)}"
  end

  defp words(:bad_requirement, installer, text) do
    where = place(text)
    said = text |> from(~r/Invalid requirement|arse|Unsupported/) |> last(6)
    "#{installer} cannot read a requirement#{where}:\n\n#{said}"
  end

  defp words(:no_network, installer, text) do
    index =
      with nil <- Regex.run(~r{Failed to fetch: `?(https?://[^/\s`]+)}, text),
           nil <- Regex.run(~r{Looking in indexes: (\S+?),?(?:\s|\z)}, text),
           nil <- Regex.run(~r{host='([^']+)'}, text),
           do: "the package index",
           else: ([_, index] -> index)

    "#{installer} cannot reach #{index}. See to the network (HTTPS_PROXY names a proxy, SSL_CERT_FILE a certificate of " <>
      "your own), name an index that can be reached with --index-url URL, or install from wheels in a directory with " <>
      "--no-index --find-links DIR. It said:\n\n#{text |> said(~r/connection broken|cause:|Caused by|error|ERROR/i) |> one_try() |> last(5)}"
  end

  defp words(:conflict, installer, text) do
    "what is asked for cannot be installed together: loosen or take out one of the versions that #{installer} names. " <>
      "It said:\n\n#{text |> from(~r/Cannot install|No solution found|conflicting dependencies/) |> without_advice() |> last(@conflict)}"
  end

  defp words(:not_found, installer, text) do
    "#{installer} finds no such package: see to its name and version, and whether it has one for this Python. " <>
      "It said:\n\n#{text |> said(~r/ERROR: (?!Ignored)|cause:|Because|error|hint:|Location/) |> last(6)}"
  end

  defp words(:no_compiler, installer, text) do
    "#{built(text)} has no wheel for this Python and must be built, for which a compiler, or Python's headers, are missing: " <>
      "sudo apt-get install build-essential python3-dev (or what #{installer} names below), or ask for a version that has " <>
      "a wheel, as -- --only-binary :all: finds one. Its last lines:\n\n#{text |> without_advice() |> last(@tail)}"
  end

  defp words(:build_failed, _installer, text) do
    "#{built(text)} could not be built. Ask for a version that has a wheel for this Python, or install what its build " <>
      "names as missing. The last lines:\n\n#{text |> without_advice() |> last(@tail)}"
  end

  defp words(:unknown, installer, text),
    do: "#{installer} failed; its last lines:\n\n#{last_lines(text, @tail)}"

  # pip repeats the message for each of its tries.
  defp one_try(lines) do
    {tries, others} = Enum.split_with(lines, &(&1 =~ "WARNING: Retrying"))
    Enum.take(tries, -1) ++ others
  end

  # pip names the line, uv the byte at which the requirement begins.
  defp place(text) do
    with nil <- Regex.run(~r/\(from line (\d+) of ([^)]+)\)/, text, capture: :all_but_first),
         nil <- of_uv(Regex.run(~r/`([^`\n]+)` at position (\d+)/, text, capture: :all_but_first)) do
      ""
    else
      [line, file] -> ", line #{line} of #{Requirement.shown(file)}"
    end
  end

  defp of_uv([file, position]) do
    case File.read(file) do
      {:ok, text} ->
        before = binary_part(text, 0, min(String.to_integer(position), byte_size(text)))
        [length(String.split(before, "\n")), file]

      {:error, _} ->
        nil
    end
  end

  defp of_uv(nil), do: nil

  defp built(text) do
    patterns = [
      ~r/Failed to build `([^`]+)`/,
      ~r/Failed building (?:wheel|editable) for (\S+)/,
      ~r/Failed to build:? (\S+)/,
      ~r/(?:Building wheel|Preparing metadata|Running setup\.py \w+) for (\S+)/,
      ~r/(?:Collecting|Processing) (\S+)(?![\s\S]*\n *(?:Collecting|Processing) )/
    ]

    Enum.find_value(patterns, "a package", fn pattern ->
      with [_, name] <- Regex.run(pattern, text), do: name
    end)
  end

  defp said(text, wanted) do
    lines = text |> lines() |> Enum.filter(&(&1 =~ wanted))
    if lines == [], do: lines(text), else: lines
  end

  defp from(text, start) do
    lines = lines(text)
    with [] <- Enum.drop_while(lines, &(not (&1 =~ start))), do: lines
  end

  # Lines that both print at every failure.
  defp without_advice(text) when is_binary(text), do: text |> lines() |> without_advice()

  defp without_advice(lines) do
    Enum.reject(
      lines,
      &(&1 =~
          ~r/To fix this you could try|^\d\. |not a problem with pip|note: This (error|is)|See above for|hint: (See above|Build failures)|^╰─>|\[end of output\]|for help visit/)
    )
  end

  @doc "The end of a message about a failure: the status, and the last lines of the output, if there are any."
  @spec last_words(String.t(), pos_integer(), non_neg_integer()) :: String.t()
  def last_words(text, count, status) do
    signal = if status in 129..192, do: ", killed by signal #{status - 128}", else: ""
    ended = " with exit status #{status}#{signal}"

    case text |> Requirement.scrub() |> last_lines(count) do
      "" -> ended <> " and said nothing"
      lines -> "#{ended}; its last lines:\n\n#{lines}"
    end
  end

  @doc "The last lines of a program's output, indented, without the repetitions for each of pip's tries."
  @spec last_lines(String.t(), pos_integer()) :: String.t()
  def last_lines(text, count), do: text |> lines() |> Enum.reject(&(&1 =~ "WARNING: Retrying")) |> last(count)

  defp lines(text),
    do: text |> String.split("\n") |> Enum.map(&String.trim_trailing/1) |> Enum.reject(&(&1 == ""))

  defp last(lines, count), do: lines |> Enum.take(-count) |> Enum.map_join("\n", &("  " <> shortened(&1)))
  defp shortened(line), do: if(String.length(line) > 400, do: String.slice(line, 0, 400) <> "…", else: line)
end
