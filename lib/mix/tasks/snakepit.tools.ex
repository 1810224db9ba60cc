defmodule Mix.Tasks.Snakepit.Tools do
  @shortdoc "Lists the tools of the configured pools, or shows one of them"

  @usage """
      mix snakepit.tools [NAME] [--pool POOL]

  Without NAME it lists all tools, a line each. With NAME it shows that tool: signature, docstring, arguments.

  Options:

    * `--pool POOL` - of this configured pool only
    * `--help` - print this text
  """

  @moduledoc """
  Lists the tools of the configured pools, or shows one of them.

  #{@usage}
  The pools are started, for it is their workers that know. Ends with status 1 if one cannot start, or has no such tool.
  """
  use Mix.Task

  alias Snakepit.Error.Text
  alias Snakepit.Pool.Handle
  alias Snakepit.Terminal.{Progress, Units}
  alias Snakepit.Tool
  alias Snakepit.Tool.Page

  @requirements ["app.config"]
  @switches [pool: :string, help: :boolean]
  # Where stdout is no terminal, nothing is shortened.
  @narrowest 60

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {[help: true], _, []} -> Mix.shell().info(@usage)
      {opts, names, []} when length(names) <= 1 -> show(List.first(names), opts[:pool])
      {_, [_, word | _], []} -> fail("unexpected argument #{word}; see mix help snakepit.tools")
      {_, _, [{option, _} | _]} -> fail("unknown option #{option}; see mix help snakepit.tools")
    end
  end

  defp show(name, pool) do
    Logger.configure(level: :critical)

    {found, failed} =
      Snakepit.run_as_script(fn ->
        answers =
          for pool <- pools(pool),
              {:ok, handle} <- [Handle.fetch(pool)],
              do: {pool, Snakepit.Pool.tools(handle)}

        {for({pool, {:ok, tools}} <- answers, do: {pool, tools}),
         for({_, {:error, error}} <- answers, do: error)}
      end)

    if name, do: pages(found, failed, name), else: Enum.each(found, &list/1)
    if failed != [], do: fail(Enum.map_join(failed, "\n", &Exception.message/1))
  end

  defp pools(nil) do
    with [] <- Enum.sort(Handle.names()), do: fail("no pool is configured: config :snakepit, pools: […]")
  end

  defp pools(name) do
    names = Handle.names()

    case Enum.find(names, &(to_string(&1) == name)) do
      nil ->
        known = Enum.map_join(Enum.sort(names), ", ", &to_string/1)
        fail("there is no pool #{name}; configured are: #{if known == "", do: "none", else: known}")

      pool ->
        [pool]
    end
  end

  defp list({pool, tools}) do
    width = Progress.columns()
    # A long signature does not push the docstrings of all others away.
    lengths = for tool <- tools, length = String.length(line(tool, width)), length <= @narrowest, do: length
    left = Enum.max(lengths, fn -> 0 end)
    say([:bright, "pool #{inspect(pool)}", :reset, ": #{Units.counted(length(tools), "tool")}\n"])

    for tool <- tools do
      name = Snakepit.Terminal.Name.show(tool.name)
      "" <> rest = tool |> line(width) |> String.replace_prefix(name, "")
      headline = Page.headline(tool)
      used = max(left, String.length(name <> rest))
      room = if width, do: max(width - used - 6, 0), else: 1_000_000
      gap = String.duplicate(" ", used - String.length(name <> rest) + 2)

      about =
        if headline == "" or room < 12, do: [], else: [gap, :faint, Text.shorten(headline, room), :reset]

      say(["  ", :cyan, name, :reset, rest | about])
    end

    say("")
  end

  # Not all of a terminal: the docstring's first line has the rest.
  defp line(%Tool{} = tool, nil), do: Tool.signature(tool) <> kind(tool)
  defp line(tool, width), do: Text.shorten(Tool.signature(tool), max(div(width, 2), @narrowest)) <> kind(tool)

  defp kind(%Tool{kind: :stream}), do: " (stream)"
  defp kind(%Tool{}), do: ""

  defp pages(found, failed, name) do
    case for({_, tools} <- found, %Tool{name: ^name} = tool <- tools, do: tool) do
      [] when failed == [] -> fail(unknown(found, name))
      tools -> Enum.each(tools, &say(to_string(&1)))
    end
  end

  defp unknown(found, name) do
    names = for {_, tools} <- found, tool <- tools, uniq: true, do: tool.name
    pools = Enum.map_join(found, ", ", fn {pool, _} -> inspect(pool) end)
    near = Snakepit.Options.nearest(name, names)

    "no tool #{name} in #{if length(found) == 1, do: "pool", else: "pools"} #{pools}#{if near, do: "; did you mean #{near}?"}"
  end

  # `Mix.shell/0` leaves colours out where stdout is no terminal.
  defp say(text) when is_binary(text), do: Mix.shell().info(text)

  defp say(parts) do
    if System.get_env("NO_COLOR", "") == "",
      do: Mix.shell().info(parts),
      else: Mix.shell().info(Enum.reject(parts, &is_atom/1))
  end

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.tools: " <> message)
end
