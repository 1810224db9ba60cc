defmodule Snakepit.Worker.OutputTest do
  # Not async: lines of level info are logged meanwhile.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog

  @moduletag :python
  @moduletag :tmp_dir

  @head """
  import snakepit
  from snakepit import on_start, on_stop, tool

  @tool
  def ping():
      pass

  """

  setup do
    Logger.put_module_level(Snakepit.Worker.Report, :info)
    on_exit(fn -> Logger.delete_module_level(Snakepit.Worker.Report) end)
  end

  test "what hooks print is logged, at the end as well", %{tmp_dir: dir} do
    log =
      capture_log(fn ->
        {:ok, pool} =
          source_pool(dir, @head <> "on_start(lambda: print('hello'))\non_stop(lambda: print('good bye'))\n")

        :ok = Snakepit.stop_pool(pool)
        send(self(), pool)
      end)

    assert_received pool
    assert log =~ "[#{pool}-0 stdout] hello"
    assert log =~ "[#{pool}-0 stdout] good bye"
  end

  test "hooks are those of the pool's modules; of others a line says that they do not run", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "helper_of_hooks.py"), """
    import snakepit
    DID = []

    @snakepit.on_start
    def imported():
        DID.append("imported")

    @snakepit.on_start
    def left_alone():
        DID.append("left alone")
    """)

    source = """
    import helper_of_hooks
    from helper_of_hooks import imported

    @tool
    def did():
        return helper_of_hooks.DID
    """

    log =
      capture_log(fn ->
        {:ok, pool} = source_pool(dir, @head <> source)
        assert Snakepit.execute("did", %{}, pool: pool) == {:ok, ["imported"]}
        # Its output was read before its end is known.
        :ok = Snakepit.stop_pool(pool)
        send(self(), pool)
      end)

    assert_received pool
    assert log =~ "[#{pool}-0 stderr] snakepit: @on_start helper_of_hooks.left_alone does not run"
  end
end
