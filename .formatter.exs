[
  inputs: ["{mix,.formatter}.exs", "{config,lib,test,bench,examples,native}/**/*.{ex,exs}"],
  line_length: 110
]
