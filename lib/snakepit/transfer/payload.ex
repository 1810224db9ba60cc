defmodule Snakepit.Transfer.Payload do
  @moduledoc false
  # The data to transfer, as a decision sees them: `bytes` beside the envelope, in `count` buffers; `fresh` of them do not
  # lie in shared memory yet. `envelope` is the envelope's size. `warm?`: shared memory for it is at hand.

  @enforce_keys [:bytes, :fresh, :type, :count, :envelope]
  defstruct @enforce_keys ++ [direction: :request, warm?: true]

  @type t :: %__MODULE__{
          bytes: non_neg_integer(),
          fresh: non_neg_integer(),
          type: :binary | :string | :tensor | :dataframe | :mixed,
          count: non_neg_integer(),
          envelope: non_neg_integer(),
          direction: :request | :reply,
          warm?: boolean()
        }

  @doc "Bytes of a single buffer. Decisions use them, because each way's fixed cost is paid per buffer."
  @spec each(t()) :: non_neg_integer()
  def each(%__MODULE__{count: count, fresh: fresh}) when count > 1, do: div(fresh, count)
  def each(%__MODULE__{fresh: fresh}), do: fresh
end
