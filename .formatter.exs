[
  inputs: ["{mix,.formatter}.exs", "{config,lib,test,bench,native}/**/*.{ex,exs}"],
  line_length: 110
]
