import Config

config :logger, level: :warning

# Which way a call goes must not depend on the machine, or on its load; pools of tests about that switch it on for
# themselves.
config :snakepit,
  performance_optimization: [
    enabled: false,
    calibrate: false,
    keep_models: false,
    holdout_rate: 0,
    calibration_dir: Path.expand("../tmp/calibration", __DIR__),
    cpu_pressure_threshold: 1,
    memory_pressure_threshold: 1
  ]
