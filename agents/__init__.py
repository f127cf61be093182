"""Those who act: market replay, features, encoder, regimes, baseline agents, and the simulation over them."""
