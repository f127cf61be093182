"""Does memory help: walk-forward evaluation of policies, rules and forecasts on market history, with intervals.

`settings` says what is compared, `folds` on which spans, `grid` holds the states and outcomes, `neighbours` what memory
answers as of each time. `booking` accounts for positions, `metrics` and `resampling` judge them, `forecasts`, `rules`,
`sizing`, `baseline_runs` and `learned` are the contestants, `judging` puts a fold together and `conclusions` says what
came out.
"""
