defmodule Snakepit.Performance.Model.Record do
  @moduledoc false
  # The word by which a call's record says what it was, as the library reads it (cost_model.rs, `cost_model_record`):
  #
  #     request way | reply way << 2 | request kind << 4 | reply kind << 7 | request warm << 10 | reply warm << 11 |
  #     went well << 12 | explored << 13 | propensity << 16

  import Bitwise
  alias Snakepit.{Native, Performance, Transfer}

  @type word :: non_neg_integer()
  @type leg :: {Performance.direction(), Transfer.way(), Performance.data_type(), bytes :: non_neg_integer()}

  # What a reply's data are, nobody says.
  @mixed Performance.number(:mixed)

  @doc "The ways, the kind (a number) of the arguments, whether their memory was warm, whether the call is to be learned from."
  @spec word(Transfer.way(), Transfer.way(), non_neg_integer(), boolean(), boolean()) :: word()
  def word(request_way, reply_way, kind, warm?, ok?) do
    Transfer.number(request_way) ||| Transfer.number(reply_way) <<< 2 ||| kind <<< 4 ||| @mixed <<< 7 |||
      if(warm?, do: 1 <<< 10, else: 0) ||| 1 <<< 11 ||| if(ok?, do: 1 <<< 12, else: 0)
  end

  @doc "A word with the decision's part: whether it explored, and its propensity. Nothing is explored where nothing is decided."
  @spec with_decision(word(), decision :: non_neg_integer() | nil) :: word()
  def with_decision(word, nil), do: word ||| 0xFFFF <<< 16

  def with_decision(word, decision),
    do: word ||| (decision &&& 8) <<< 10 ||| (decision >>> 7 &&& 0xFFFF) <<< 16

  @doc "Whether a row's call is one to learn from: it went well, and was no stream."
  @spec ok?(Native.row()) :: boolean()
  def ok?({word, _ns, _request, _reply, _predicted}), do: (word >>> 12 &&& 1) == 1

  @doc "Whether both directions went by memory that was there."
  @spec warm?(Native.row()) :: boolean()
  def warm?({word, _ns, _request, _reply, _predicted}), do: (word >>> 10 &&& 0b11) == 0b11

  @doc "Whether the call explored, and how likely its order was."
  @spec choice(Native.row()) :: {explored? :: boolean(), propensity :: float()}
  def choice({word, _ns, _request, _reply, _predicted}),
    do: {(word >>> 13 &&& 1) == 1, (word >>> 16 &&& 0xFFFF) / 0xFFFF}

  @doc "The direction that carried more."
  @spec larger(Native.row()) :: leg()
  def larger({word, _ns, request, reply, _predicted}) do
    {direction, way, kind, bytes} =
      if request >= reply,
        do: {:request, word &&& 3, word >>> 4 &&& 7, request},
        else: {:reply, word >>> 2 &&& 3, word >>> 7 &&& 7, reply}

    {direction, Transfer.from_number(way), Enum.at(Performance.data_types(), kind), bytes}
  end
end
