"""MaskHub: where the measurements of a mask's dies are kept and analysed. In the settings: adapter = "maskhub.runs"."""
