defmodule Snakepit.Worker.Spec do
  @moduledoc false
  # All that one run of a worker needs. The process that starts a worker makes the spec; the worker needs nothing else.

  alias Snakepit.Native

  @enforce_keys [:pool, :index, :name, :size, :owner, :launcher, :options, :lanes, :quota] ++
                  [:welcome, :arena, :queue]
  defstruct @enforce_keys ++ [os_process?: true, restarts: 0, on_source: nil]

  @typedoc """
  - `pool`, `index`, `name`: which worker of which pool, of `size` workers. `restarts`: how often it was started again.
  - `owner`: the process that is sent `t:Snakepit.Worker.event/0`s.
  - `launcher`: what starts and ends the process that the run is of. `os_process?`: whether that is one of its own.
  - `options`: the pool's options, with this worker's variables in `env`.
  - `lanes`: how many calls run at once. `quota`: bytes that the worker's own memory may have.
  - `welcome`: the settings that the worker is sent, without those that change from run to run.
  - `arena`, `queue`: the pool's.
  - `on_source`: called with a file that the worker is about to import, and its size and checksum (nil: too large).
  """
  @type t :: %__MODULE__{
          pool: atom(),
          index: non_neg_integer(),
          name: String.t(),
          size: pos_integer(),
          owner: pid(),
          launcher: module(),
          os_process?: boolean(),
          options: map(),
          lanes: pos_integer(),
          quota: pos_integer(),
          welcome: map(),
          arena: Native.arena(),
          queue: Native.queue(),
          restarts: non_neg_integer(),
          on_source: (Path.t(), {non_neg_integer(), non_neg_integer()} | nil -> any()) | nil
        }
end
