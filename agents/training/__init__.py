"""Learning from remembered experience: data, prioritised replay, the learner and its regularisers."""
