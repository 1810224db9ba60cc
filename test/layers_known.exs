# References to layers above, and circles, that are still to be removed: see test/layers_test.exs.
%{cycles: [], upwards: []}
