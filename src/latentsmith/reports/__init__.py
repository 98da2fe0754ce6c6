"""Runs become pages: targets with verdicts, tables, figures and the protocol of every number.

`latentsmith.reports.page` is what recipes use: `Report`, `Section`, `Table`, `Figure`, `Target`,
`write_report`. `verdicts` derives targets from measurements, `plots` draws, `runs` compares run
folders, `card` writes the latent-space card of one autoencoder.
"""
