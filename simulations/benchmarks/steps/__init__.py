"""What `fedmodels bench dp` compares: models, and ways of taking one private step."""
