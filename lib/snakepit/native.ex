defmodule Snakepit.Native do
  @moduledoc false
  # The one module that calls the main NIF library (native/snakepit_nif). A function whose work grows with its input comes
  # as a pair: the clean one answers :dirty beyond a bound (bounds.rs), and the wrapper here then calls its dirty twin.
  # Handles are opaque references.

  @on_load :load

  @type arena :: reference()
  @type worker :: reference()
  @type queue :: reference()
  @type cost_model :: reference()
  @type busy_poll :: reference()
  @type checkout :: reference()
  @type place :: reference()
  @type lane :: reference()
  @type frame :: binary() | [binary()]
  @type token :: non_neg_integer()
  @type chunk_id :: non_neg_integer()
  @type head ::
          {kind :: 1..3, way :: 0..2, reply_mask :: 1..7, flags :: byte(), timeout_ms :: 0..0xFFFFFFFF,
           lane :: non_neg_integer()}
  @type meta ::
          {way :: 0..2, bytes :: non_neg_integer(), tool_ns :: non_neg_integer(), gil_ns :: non_neg_integer(),
           flags :: 0..15}

  @doc false
  def load do
    path = :code.priv_dir(:snakepit) |> Path.join("native/libsnakepit_nif") |> String.to_charlist()
    :erlang.load_nif(path, 0)
  end

  @doc """
  Splits a call into its envelope and the binaries of at least `inline_limit` bytes; of these, how many bytes there are,
  how many do not lie in a chunk already, and what they are (`Snakepit.Performance.data_types/0`).
  """
  @spec encode(String.t(), term(), String.t() | nil, pos_integer()) ::
          {:ok, envelope :: binary(), buffers :: [binary()],
           {bytes :: non_neg_integer(), fresh :: non_neg_integer(), kind :: 0..4}}
          | {:error, path :: String.t(), reason :: atom(), detail :: String.t()}
          | :convert
  def encode(command, args, session, inline_limit) do
    case encode_clean(command, args, session, inline_limit) do
      :dirty -> encode_dirty(command, args, session, inline_limit)
      answer -> answer
    end
  end

  @doc """
  Writes a request's frame. By `zero_copy`, the buffers are copied into the arena, but for those that lie in a chunk
  already; `unsent` lists the chunks whose descriptors the worker must be sent. `:cold`, with the
  lengths that are to be copied, when there is no memory at hand.
  """
  @spec request(worker(), arena(), head(), binary(), [binary()]) ::
          {:ok, call_id :: pos_integer(), iodata(), unsent :: [chunk_id()], copied :: non_neg_integer()}
          | {:cold, lengths :: [non_neg_integer()]}
  def request(worker, arena, head, envelope, buffers) do
    case request_clean(worker, arena, head, envelope, buffers) do
      :dirty -> request_dirty(worker, arena, head, envelope, buffers)
      answer -> answer
    end
  end

  @doc "As `request/5` by `zero_copy`; memory that is not at hand is made, which takes its time."
  @spec request_making_room(worker(), arena(), head(), binary(), [binary()]) ::
          {:ok, call_id :: pos_integer(), iodata(), unsent :: [chunk_id()], copied :: non_neg_integer()}
          | {:cold, lengths :: [non_neg_integer()]}
          | {:error, refusal()}
  def request_making_room(_worker, _arena, _head, _envelope, _buffers), do: stub()

  @doc """
  Reads a reply's frame; `beside` are the buffers that came with it by gRPC, `options` is `{copy?, Decimal loaded?,
  %MapSet{}}`. After `{:unknown_chunk, id}` it may be called again, once the chunk was adopted.
  """
  @spec reply(worker(), pos_integer(), binary(), [binary()], {boolean(), boolean(), MapSet.t()}) ::
          {:ok, :result | :error | :item | :end | :fetch, term(), meta()}
          | {:error, :unknown_chunk, chunk_id()}
          | {:error, :protocol, String.t()}
          | {:error, :value, path :: String.t(), reason :: atom(), detail :: String.t()}
  def reply(worker, call_id, frame, beside, options) do
    case reply_clean(worker, call_id, frame, beside, options) do
      :dirty -> reply_dirty(worker, call_id, frame, beside, options)
      answer -> answer
    end
  end

  @doc false
  def encode_clean(_command, _args, _session, _inline_limit), do: stub()
  @doc false
  def encode_dirty(_command, _args, _session, _inline_limit), do: stub()
  @doc false
  def request_clean(_worker, _arena, _head, _envelope, _buffers), do: stub()
  @doc false
  def request_dirty(_worker, _arena, _head, _envelope, _buffers), do: stub()
  @doc false
  def reply_clean(_worker, _call_id, _frame, _beside, _options), do: stub()
  @doc false
  def reply_dirty(_worker, _call_id, _frame, _beside, _options), do: stub()

  @doc "A term as MessagePack, for control messages."
  @spec pack(term()) :: {:ok, binary()} | :error
  def pack(term) do
    case pack_clean(term) do
      :dirty -> pack_dirty(term)
      answer -> answer
    end
  end

  @spec unpack(binary(), MapSet.t()) :: {:ok, term()} | {:error, String.t()}
  def unpack(bytes, empty_set) do
    case unpack_clean(bytes, empty_set) do
      :dirty -> unpack_dirty(bytes, empty_set)
      answer -> answer
    end
  end

  @doc false
  def pack_clean(_term), do: stub()
  @doc false
  def pack_dirty(_term), do: stub()
  @doc false
  def unpack_clean(_bytes, _empty_set), do: stub()
  @doc false
  def unpack_dirty(_bytes, _empty_set), do: stub()

  @doc """
  Kinds, flags and fields of a frame as Rust has them (`snakepit_core::frame`). A name stands for one number, or for a
  field's offset and size. Tests compare what other languages have with this.
  """
  @spec frame_layout() :: [{section :: String.t(), [{name :: String.t(), [non_neg_integer()]}]}]
  def frame_layout, do: stub()

  @doc "A pool's outbound arena, and its owner id. It is closed when the calling process ends."
  @spec arena_new(chunk_size :: pos_integer(), quota :: pos_integer()) :: {arena(), owner :: pos_integer()}
  def arena_new(_chunk_size, _quota), do: stub()

  @type refusal ::
          {:quota, held :: non_neg_integer(), quota :: pos_integer()}
          | :too_large
          | :closed
          | {:errno, String.t()}

  @doc "Makes sure that buffers of all these lengths find warm memory at once. Makes every page of new chunks: slow."
  @spec arena_ensure(arena(), lengths :: [non_neg_integer()]) ::
          {:ok, made :: [chunk_id()]} | {:error, refusal()}
  def arena_ensure(_arena, _lengths), do: stub()

  @doc "Adds an ordinary chunk, wanted or not."
  @spec arena_grow(arena()) :: {:ok, made :: [chunk_id()]} | {:error, refusal()}
  def arena_grow(_arena), do: stub()

  @doc "Drops idle chunks, unmaps forgotten ones; also says whether a spare chunk is due."
  @spec arena_tend(arena(), idle_ms :: non_neg_integer()) :: spare? :: boolean()
  def arena_tend(_arena, _idle_ms), do: stub()

  @spec arena_chunks(arena()) :: [{chunk_id(), size :: pos_integer()}]
  def arena_chunks(_arena), do: stub()

  @spec arena_usage(arena()) :: %{
          chunks: non_neg_integer(),
          held_bytes: non_neg_integer(),
          live_slots: non_neg_integer(),
          live_bytes: non_neg_integer()
        }
  def arena_usage(_arena), do: stub()

  @doc "Processes whose binaries refer to worker memory of this pool, largest first."
  @spec arena_leases(arena()) :: [{pid(), bytes :: pos_integer()}]
  def arena_leases(_arena), do: stub()

  @doc "The same bytes, living in the arena, which makes what memory it lacks. `:taken`: others took it as fast as that."
  @spec arena_share(arena(), binary()) :: {:ok, binary()} | {:error, refusal() | :taken}
  def arena_share(_arena, _binary), do: stub()

  @doc "The VM's books on one run of a worker; results count as leases of the arena's pool."
  @spec worker_new(arena(), quota :: pos_integer()) :: {worker(), owner :: pos_integer()}
  def worker_new(_arena, _quota), do: stub()

  @doc "Checks and maps a worker's chunk. Takes the descriptor over."
  @spec worker_adopt(worker(), chunk_id(), size :: pos_integer(), fd :: integer()) ::
          :ok | {:error, broken :: String.t() | {:errno, refused :: String.t()}}
  def worker_adopt(_worker, _id, _size, _fd), do: stub()

  @doc "As if the system had refused to map this chunk of the worker's."
  @spec worker_refuse(worker(), chunk_id()) :: :ok | {:error, broken :: String.t()}
  def worker_refuse(_worker, _id), do: stub()

  @spec worker_forget(worker(), chunk_id()) :: boolean()
  def worker_forget(_worker, _id), do: stub()

  @doc "The worker no longer looks at what these tokens stand for; false if one of them is unknown."
  @spec worker_released(worker(), [token()]) :: boolean()
  def worker_released(worker, tokens) do
    case worker_released_clean(worker, tokens) do
      :dirty -> worker_released_dirty(worker, tokens)
      answer -> answer
    end
  end

  @doc false
  def worker_released_clean(_worker, _tokens), do: stub()
  @doc false
  def worker_released_dirty(_worker, _tokens), do: stub()

  @doc "Tokens of the worker's slots that nobody refers to any more; each is returned once."
  @spec worker_freed(worker()) :: [token()]
  def worker_freed(worker) do
    case worker_freed_some(worker) do
      [] -> []
      some -> some ++ worker_freed(worker)
    end
  end

  @doc false
  # As many as an ordinary scheduler can take.
  def worker_freed_some(_worker), do: stub()

  @doc "Whether the worker must be sent this chunk's descriptor before it can read it; true once for each chunk."
  @spec worker_needs_chunk(worker(), chunk_id()) :: boolean()
  def worker_needs_chunk(_worker, _id), do: stub()

  @doc "The chunks the worker was sent that are gone by now, each once: it may unmap them."
  @spec worker_stale(worker()) :: [chunk_id()]
  def worker_stale(_worker), do: stub()

  @doc "The latest call that a request was made of for this lane. `holds?`: it has tokens; `read?`: its last reply was read."
  @spec worker_last_call(worker(), lane :: non_neg_integer()) ::
          {id :: pos_integer(), stream? :: boolean(), holds? :: boolean(), read? :: boolean()} | nil
  def worker_last_call(_worker, _lane), do: stub()

  @doc "The lane's latest call could not be sent, not in whole: it never ran."
  @spec worker_unsent(worker(), lane :: non_neg_integer()) :: :ok
  def worker_unsent(_worker, _lane), do: stub()

  @doc "The calls whose last reply nobody has read, with the milliseconds since their request was made."
  @spec worker_unanswered(worker()) :: [
          {lane :: non_neg_integer(), command :: String.t(), correlation_id :: String.t() | nil,
           ms :: non_neg_integer()}
        ]
  def worker_unanswered(_worker), do: stub()

  @doc "How many buffers the worker still looks at."
  @spec worker_held(worker()) :: non_neg_integer()
  def worker_held(_worker), do: stub()

  @doc "The worker's process is gone: what it was sent may be used again."
  @spec worker_close(worker()) :: :ok
  def worker_close(_worker), do: stub()

  @doc "A chunk's descriptor, valid while the returned reference lives."
  @spec chunk_fd(chunk_id()) :: {:ok, fd :: non_neg_integer(), size :: pos_integer(), reference()} | :error
  def chunk_fd(_id), do: stub()

  @doc "To be called once the descriptor was sent, with the reference: it is valid until then."
  @spec chunk_sent(reference()) :: :ok
  def chunk_sent(_reference), do: stub()

  @doc "Unmaps the chunks that nothing refers to any more."
  @spec unmap_unused() :: :ok
  def unmap_unused, do: stub()

  @spec close_fd(integer()) :: :ok
  def close_fd(_fd), do: stub()

  # After `:wait`, `{:select, _, reference, _}` is sent to the calling process when the lane is worth another try, or is
  # closed. `:again`: it is so at once.

  @doc "Takes a worker's descriptor over, until `lane_close/1` or the end of the calling process."
  @spec lane_open(fd :: non_neg_integer()) :: lane()
  def lane_open(_fd), do: stub()

  @spec lane_close(lane()) :: :ok
  def lane_close(_lane), do: stub()

  @doc "Sends a frame. Bytes that the socket does not take at once stay with the lane, for `lane_flush/2`; no message comes."
  @spec lane_send(lane(), frame()) :: :ok | :wait | :again | {:error, :closed | String.t()}
  def lane_send(lane, frame) do
    case lane_send_clean(lane, frame) do
      :dirty -> lane_send_dirty(lane, frame)
      answer -> answer
    end
  end

  @doc false
  def lane_send_clean(_lane, _frame), do: stub()
  @doc false
  def lane_send_dirty(_lane, _frame), do: stub()

  @spec lane_flush(lane(), reference()) :: :ok | :wait | :again | {:error, :closed | String.t()}
  def lane_flush(_lane, _reference), do: stub()

  @spec lane_receive(lane(), reference()) ::
          {:ok, binary()} | :wait | :again | {:error, :closed | String.t()}
  def lane_receive(_lane, _reference), do: stub()

  @doc "Ends a wait. False if its message could not be called back: it is there, or under way."
  @spec lane_cancel(lane()) :: boolean()
  def lane_cancel(_lane), do: stub()

  @doc "Remembers, without holding them, the slots that binaries in a term point into."
  @spec watch(term()) :: reference()
  def watch(_term), do: stub()

  @spec watch_freed(reference()) :: bytes :: non_neg_integer()
  def watch_freed(_watch), do: stub()

  @spec in_chunk(binary()) :: boolean()
  def in_chunk(_binary), do: stub()

  @doc "How long callers of a pool spin for a reply, in µs (500 at most), and of which commands that was worth it."
  @spec busy_poll_new(non_neg_integer()) :: busy_poll()
  def busy_poll_new(_us), do: stub()

  @doc "Spins until a descriptor is readable: whether it is by now; `nil` where replies to the like take longer."
  @spec busy_poll(busy_poll(), fd :: integer(), command :: binary(), way :: 0..2, bytes :: non_neg_integer()) ::
          boolean() | nil
  def busy_poll(_poll, _fd, _command, _way, _bytes), do: stub()

  @typedoc "A call that another process can cancel (native/snakepit_nif/src/cancel.rs)."
  @type cancellation :: reference()

  @doc "Registers a call, until `cancel_over/1` or the end of its process. `counts?`: it is a call, and no group of them."
  @spec cancel_register(id :: binary(), counts? :: boolean()) :: cancellation()
  def cancel_register(_id, _counts?), do: stub()

  @doc "Leaves a term for `cancel_calls/1`."
  @spec cancel_note(cancellation(), term()) :: :ok
  def cancel_note(_call, _term), do: stub()

  @doc """
  To be called before a wait: if it is cancelled, `{:snakepit_cancelled, reference}` comes to the calling process. False if it
  is so already: then no message comes.
  """
  @spec cancel_wait(cancellation(), reference()) :: boolean()
  def cancel_wait(_call, _reference), do: stub()

  @doc "To be called after a wait. False if it was cancelled: the message is there, or under way."
  @spec cancel_waited(cancellation()) :: boolean()
  def cancel_waited(_call), do: stub()

  @spec cancel_flagged(cancellation()) :: boolean()
  def cancel_flagged(_call), do: stub()

  @doc "The call is over, and found no more; whether it was cancelled before."
  @spec cancel_over(cancellation()) :: boolean()
  def cancel_over(_call), do: stub()

  @doc "Cancels the calls of an id that are not cancelled yet: how many, and what they left."
  @spec cancel_calls(id :: binary()) :: {non_neg_integer(), notes :: [term()]}
  def cancel_calls(_id), do: stub()

  @doc "A pool's queue: its lanes, all of them down. `owner` gets `{:lane_lost, id, run}` and `:lanes_at_rest`."
  @spec queue_new(
          owner :: pid(),
          workers :: pos_integer(),
          per_worker :: pos_integer(),
          max_waiting :: non_neg_integer()
        ) ::
          queue()
  def queue_new(_owner, _workers, _per_worker, _max_waiting), do: stub()

  @doc """
  A lane, or a place in line: then `{:snakepit_lane, reference, answer}` comes, where the answer is as here. `worker`
  is -1 for any; with `prefer`, another will do when that one is busy.
  """
  @spec queue_checkout(queue(), worker :: integer(), prefer :: boolean(), reference()) ::
          {:ok, lane :: non_neg_integer(), run :: pos_integer(), checkout()}
          | {:wait, place()}
          | :full
          | {:closed, code :: non_neg_integer()}
          | :moved
  def queue_checkout(_queue, _worker, _prefer, _reference), do: stub()

  @doc "For a waiter that was sent `{:moved, turn}` because its worker left: it keeps its turn, however many wait."
  @spec queue_checkout_again(
          queue(),
          worker :: integer(),
          prefer :: boolean(),
          reference(),
          turn :: non_neg_integer()
        ) ::
          {:ok, lane :: non_neg_integer(), run :: pos_integer(), checkout()}
          | {:wait, place()}
          | {:closed, code :: non_neg_integer()}
          | :moved
  def queue_checkout_again(_queue, _worker, _prefer, _reference, _turn), do: stub()

  @doc "From now on it has so many workers: the runs of those that leave get no more calls (`{:lanes_retired, run}`)."
  @spec queue_resize(queue(), workers :: pos_integer()) :: :ok
  def queue_resize(_queue, _workers), do: stub()

  @doc "To be called by a waiter that was handed a lane, before it uses it."
  @spec queue_take(checkout()) :: :ok
  def queue_take(_checkout), do: stub()

  @doc "Leaves the line; false if a lane was handed over already, and its message is there."
  @spec queue_cancel(queue(), place()) :: boolean()
  def queue_cancel(_queue, _place), do: stub()

  @doc "The lane is at rest: it goes to whoever waited longest."
  @spec queue_checkin(checkout()) :: :ok
  def queue_checkin(_checkout), do: stub()

  @doc "The lane may be in the middle of a call: it does not come back."
  @spec queue_forget(checkout()) :: :ok
  def queue_forget(_checkout), do: stub()

  @spec queue_up(queue(), worker :: non_neg_integer(), run :: pos_integer()) :: :ok
  def queue_up(_queue, _worker, _run), do: stub()

  @doc "Which lanes of a worker's run, by their number, have no call, or had none when the run went down."
  @spec queue_without_call(queue(), worker :: non_neg_integer(), run :: pos_integer()) :: [
          non_neg_integer()
        ]
  def queue_without_call(_queue, _worker, _run), do: stub()

  @spec queue_down(queue(), worker :: non_neg_integer(), run :: pos_integer()) :: :ok
  def queue_down(_queue, _worker, _run), do: stub()

  @doc "No more calls; callers that wait are answered `{:closed, code}`."
  @spec queue_close(queue(), code :: non_neg_integer()) :: :ok
  def queue_close(_queue, _code), do: stub()

  @doc "How many calls a worker's current run has served."
  @spec queue_served(queue(), worker :: non_neg_integer()) :: non_neg_integer()
  def queue_served(_queue, _worker), do: stub()

  @doc "As `queue_close/2`, but only until a worker is up; nothing if one is."
  @spec queue_suspend(queue(), code :: non_neg_integer()) :: :ok
  def queue_suspend(_queue, _code), do: stub()

  @spec queue_counts(queue()) ::
          {idle :: non_neg_integer(), busy :: non_neg_integer(), waiting :: non_neg_integer()}
  def queue_counts(_queue), do: stub()

  @typedoc "What an OS process may use; `memory` in bytes. `nil`: as much as it likes."
  @type limits :: %{
          memory: pos_integer() | nil,
          open_files: pos_integer() | nil,
          nice: -20..19 | nil,
          cpus: [non_neg_integer()] | nil
        }

  @typedoc "How an OS process ended (`Snakepit.Companion`)."
  @type exit_status ::
          {:status | :signal, integer()}
          | {:signal, integer(), :out_of_memory | {:out_of_memory, limit :: non_neg_integer()}}

  @doc "Frames for the companion (native/snakepit_core/src/companion.rs)."
  @spec companion_start(
          non_neg_integer(),
          String.t(),
          [String.t()],
          [{String.t(), String.t()}],
          [String.t()],
          String.t() | nil,
          limits()
        ) ::
          binary()
  def companion_start(_id, _program, _args, _env, _unset_env, _cwd, _limits), do: stub()

  @spec companion_stop(non_neg_integer(), non_neg_integer()) :: binary()
  def companion_stop(_id, _grace_ms), do: stub()

  @spec companion_kill(non_neg_integer()) :: binary()
  def companion_kill(_id), do: stub()

  @spec companion_event(binary()) ::
          {:started, id :: non_neg_integer(), pid :: pos_integer()}
          | {:start_failed, id :: non_neg_integer(), String.t()}
          | {:output, id :: non_neg_integer(), :stdout | :stderr, binary(), truncated :: boolean()}
          | {:exited, id :: non_neg_integer(), exit_status(), stderr_tail :: binary()}
          | {:dropped, id :: non_neg_integer(), lines :: pos_integer()}
          | {:bad_frame, String.t()}
  def companion_event(_bytes), do: stub()

  # The cost model (native/snakepit_nif/src/cost_model.rs). `Snakepit.Performance.Model` says what each of these is.

  @type direction :: :request | :reply
  @type way :: :inline | :zero_copy | :grpc
  @type data_type :: :binary | :string | :tensor | :dataframe | :mixed
  @type goal :: :minimize_latency | :maximize_throughput | :minimize_memory | :balanced
  @type load :: {cpu? :: boolean(), memory? :: boolean()}
  @type transfer :: {direction(), way(), data_type(), warm :: boolean(), size :: non_neg_integer()}
  @type probe :: {direction(), way(), data_type(), size :: non_neg_integer()}
  @type ns_by_way :: {inline :: pos_integer(), zero_copy :: pos_integer(), grpc :: pos_integer()}

  @spec cost_model_new(rules :: struct()) :: cost_model()
  def cost_model_new(_rules), do: stub()

  @spec cost_model_rules(cost_model(), rules :: struct()) :: :ok
  def cost_model_rules(_cost_model, _rules), do: stub()

  @typedoc """
  The ways, best first, and why; whether the second best is tried, and how likely that was; what each way is expected to
  take; how certain the order is; the type's threshold in bytes; the model's version; whether shared memory is the
  cheapest even if it has to be made first.
  """
  @type decision ::
          {[way()], reason :: atom(), explored? :: boolean(), propensity :: float(), ns_by_way(),
           confidence :: float(), threshold :: pos_integer(), version :: non_neg_integer(),
           make_memory? :: boolean()}

  @spec cost_model_decide(
          cost_model(),
          direction(),
          data_type(),
          warm :: boolean(),
          size :: non_neg_integer(),
          allowed :: 0..7,
          preferred :: way() | nil,
          mode :: :call | :look
        ) :: decision()
  def cost_model_decide(_cost_model, _direction, _type, _warm, _size, _allowed, _preferred, _mode), do: stub()

  @spec cost_model_cell(cost_model(), direction(), data_type(), boolean(), non_neg_integer(), load() | nil) ::
          struct()
  def cost_model_cell(_cost_model, _direction, _type, _warm, _size, _load), do: stub()

  @spec cost_model_threshold(cost_model(), direction(), data_type(), load() | nil) ::
          {bytes :: non_neg_integer(), reason :: atom()}
  def cost_model_threshold(_cost_model, _direction, _type, _load), do: stub()

  @spec cost_model_outcomes(cost_model(), data_type()) ::
          [{non_neg_integer(), calls :: pos_integer(), sum :: float(), squares :: float()}]
  def cost_model_outcomes(_cost_model, _type), do: stub()

  @spec cost_model_bins(pos_integer(), pos_integer()) :: [{pos_integer(), pos_integer()}]
  def cost_model_bins(_first, _last), do: stub()

  @doc "The types of data, in the order of their numbers."
  @spec cost_model_types() :: [data_type()]
  def cost_model_types, do: stub()

  @spec cost_model_record(
          cost_model(),
          {way(), way(), data_type(), warm :: boolean(), learn? :: boolean()},
          {explored? :: boolean(), propensity :: float(), predicted_ns :: non_neg_integer() | nil,
           held_out? :: boolean()}
          | nil,
          work_ns :: non_neg_integer(),
          request_bytes :: non_neg_integer(),
          reply_bytes :: non_neg_integer()
        ) :: :ok
  def cost_model_record(_cost_model, _call, _choice, _work, _request, _reply), do: stub()

  @spec cost_model_drain(cost_model(), learn? :: boolean(), most_rows :: non_neg_integer()) ::
          {seen :: non_neg_integer(), learned :: non_neg_integer(), rows :: [struct()]}
  def cost_model_drain(_cost_model, _learn?, _most_rows), do: stub()

  @doc "The calls of the current second, minute or hour (0, 1, 2), and a histogram of their latencies; `over?` begins the next one."
  @spec cost_model_window(cost_model(), 0..2, over? :: boolean()) ::
          {count :: non_neg_integer(), failed :: non_neg_integer(), sum_ns :: non_neg_integer(),
           sum_bytes :: non_neg_integer(), histogram :: binary()}
  def cost_model_window(_cost_model, _which, _over?), do: stub()

  @spec cost_model_drift(cost_model(), take? :: boolean()) ::
          {alarms :: non_neg_integer(), open? :: boolean(),
           [{:widened | :restored | :accepted, direction(), way(), longer? :: boolean()}]}
  def cost_model_drift(_cost_model, _take?), do: stub()

  @spec cost_model_holdout(cost_model(), alpha :: float()) :: struct()
  def cost_model_holdout(_cost_model, _alpha), do: stub()

  @spec cost_model_probed(cost_model(), probe(), work_ns :: non_neg_integer()) :: :ok
  def cost_model_probed(_cost_model, _probe, _work), do: stub()

  @spec cost_model_predict(cost_model(), probe()) :: float()
  def cost_model_predict(_cost_model, _probe), do: stub()

  @spec cost_model_drift_factor(cost_model()) :: float()
  def cost_model_drift_factor(_cost_model), do: stub()

  @spec cost_model_compile(cost_model()) :: :ok
  def cost_model_compile(_cost_model), do: stub()

  @spec cost_model_calibrate(cost_model(), transfer(), ns :: float(), base_ns :: float()) :: :ok
  def cost_model_calibrate(_cost_model, _transfer, _ns, _base_ns), do: stub()

  @spec cost_model_calibrate_empty(cost_model(), ns :: float(), base_ns :: float()) :: :ok
  def cost_model_calibrate_empty(_cost_model, _ns, _base_ns), do: stub()

  @spec cost_model_calibrate_cpu(cost_model(), direction(), way(), non_neg_integer(), float()) :: :ok
  def cost_model_calibrate_cpu(_cost_model, _direction, _way, _size, _ns), do: stub()

  @spec cost_model_anchor(cost_model()) :: :ok
  def cost_model_anchor(_cost_model), do: stub()

  @spec cost_model_load(cost_model(), load()) :: news? :: boolean()
  def cost_model_load(_cost_model, _load), do: stub()

  @spec cost_model_prices(
          cost_model(),
          direction(),
          data_type(),
          boolean(),
          non_neg_integer(),
          goal(),
          load()
        ) ::
          [{way(), struct()}]
  def cost_model_prices(_cost_model, _direction, _type, _warm, _size, _goal, _load), do: stub()

  @spec cost_model_line(cost_model(), transfer()) :: struct()
  def cost_model_line(_cost_model, _transfer), do: stub()

  @spec cost_model_crossover(cost_model(), direction(), data_type(), goal(), allowed :: 0..7) ::
          {size :: pos_integer(), low :: pos_integer(), high :: pos_integer()} | nil
  def cost_model_crossover(_cost_model, _direction, _type, _goal, _allowed), do: stub()

  @spec cost_model_reply_table(cost_model()) :: binary()
  def cost_model_reply_table(_cost_model), do: stub()

  @spec cost_model_counts(cost_model()) :: struct()
  def cost_model_counts(_cost_model), do: stub()

  @spec cost_model_percentiles(cost_model(), [float()]) ::
          {[non_neg_integer() | nil], [non_neg_integer() | nil]}
  def cost_model_percentiles(_cost_model, _which), do: stub()

  @spec cost_model_export(cost_model()) :: binary()
  def cost_model_export(_cost_model), do: stub()

  @spec cost_model_import(cost_model(), binary()) :: boolean()
  def cost_model_import(_cost_model, _bytes), do: stub()

  @doc "CPU time of a process, in ns; nil if it is gone."
  @spec cpu_time(pos_integer()) :: non_neg_integer() | nil
  def cpu_time(_os_pid), do: stub()

  # Dialyzer must not conclude from the stub that no function returns.
  defp stub, do: :erlang.nif_error({:not_loaded, __MODULE__})
end
