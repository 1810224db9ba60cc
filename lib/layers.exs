# The layers of Snakepit, from below. A module uses its own layer and those before it, and nothing after it, at compile
# time and at run time. An upper layer that wants to know something of a lower one subscribes to its events, or passes it a
# function. A name stands for the module and for all modules under it, unless these have an entry of their own.
# test/layers_test.exs checks this.
[
  # Errors, options, units, native stubs, telemetry: what every other layer uses.
  support: [
    Snakepit.Annotations,
    Snakepit.Backoff,
    Snakepit.Breaker,
    Snakepit.Bytes,
    Snakepit.Decimal,
    Snakepit.Error,
    Snakepit.Machine,
    Snakepit.Native,
    Snakepit.Observation,
    Snakepit.Options,
    Snakepit.Python,
    Snakepit.Release,
    Snakepit.Runtime,
    Snakepit.Stats,
    Snakepit.Telemetry,
    Snakepit.Tensor,
    Snakepit.Terminal,
    Snakepit.Transfer
  ],
  # Frames, sockets, gRPC, and the port program that starts OS processes.
  wire: [
    Snakepit.ChunkReaper,
    Snakepit.Companion,
    Snakepit.Grpc,
    Snakepit.Wire
  ],
  # One run of one OS process, and the tools it serves.
  worker: [
    Snakepit.Tool,
    Snakepit.Worker
  ],
  # The checkout queue, the arena, the options of a pool.
  pool: [
    Snakepit.Pool
  ],
  # The cost model, thresholds, metrics, learning.
  performance: [
    Snakepit.Performance
  ],
  # One call and its plan.
  call: [
    Snakepit.Call
  ],
  # What users call, and what starts it.
  facade: [
    Snakepit,
    Snakepit.Application,
    Snakepit.Config,
    Snakepit.Setup,
    Snakepit.Stream
  ],
  # What uses the facade.
  above: [
    Mix.Tasks,
    Snakepit.Bench,
    Snakepit.Demo,
    Snakepit.Test
  ]
]
