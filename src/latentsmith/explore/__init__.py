"""``latentsmith explore RUN…``: finished runs looked at in the browser, on this machine alone.

What is computed stands apart from the page:

* `arms`: what a run holds to look at. One arm is one latent space: an autoencoder and the generator
  in its latents, or a model of texts and latents.
* `bench`: loaded models, the samples all arms look at, their latents and reference vectors.
* `projection`, `neighbours`, `between`, `generating`, `fields`: computing on tensors.
* `tabs/`: a file a tab. It says which arms it suits, which controls it has (`controls`), and gives
  blocks to show (`blocks`) for one arm; the page asks each arm and puts them side by side.
* `server`, `page/`: the application and what the browser loads. A new tab changes neither.
"""
