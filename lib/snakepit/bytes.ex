defmodule Snakepit.Bytes do
  @moduledoc """
  A binary that Python shall see as bytes, not as a str. Made by `Snakepit.bytes/1`.

  A parameter annotated with `bytes` (or `bytes | None`, `list[bytes]` …) gets `bytes`, one annotated with `bytearray` a
  `bytearray`: copies, whatever the size. Any other gets a read-only `memoryview`, of one byte as of a gigabyte, without a
  copy of what is large. In a set, bytes are `bytes`. What Python returns as bytes or as a str comes back as an ordinary
  binary.
  """

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary()}
end
