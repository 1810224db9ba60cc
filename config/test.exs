import Config

config :logger, level: :warning

# Which way a call goes must not depend on the machine; pools of tests about that switch it on for themselves.
config :snakepit,
  performance_optimization: [
    enabled: false,
    calibrate: false,
    calibration_dir: Path.expand("../tmp/calibration", __DIR__)
  ]
