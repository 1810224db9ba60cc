defmodule Snakepit.Bytes do
  @moduledoc """
  A binary that Python shall see as bytes, not as a str. Made by `Snakepit.bytes/1`.

  Small ones arrive as `bytes`, large ones as a read-only `memoryview`. What Python returns as bytes or as a str comes
  back as an ordinary binary.
  """

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary()}
end
