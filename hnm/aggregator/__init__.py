"""From a bag of features to a slide's answer and its patches' scores: networks, training, scoring."""
