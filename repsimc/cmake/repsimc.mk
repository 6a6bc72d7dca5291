# Bundles as targets of GNU Make:
#
#   include $(shell repsimc --cmake-dir)/repsimc.mk
#   $(eval $(call repsimc_bundle,build/bundle,a.onnx b.onnx,--calib frames.npz --budget 60%))
#   all: build/bundle/manifest.json
#
# The folder, the models, further words for `repsimc compile`, and what else it depends on (a fourth
# argument). Depend on manifest.json for "the bundle is up to date", on merged.onnx or plan.json for
# what they hold: their times change only if their bytes do. Make's lists cannot hold names with
# blanks: write these with '\ ', or name the models in a repsimc.toml.

REPSIMC ?= repsimc

define repsimc_bundle
$(1)/manifest.json: $(2) $(4)
	$$(REPSIMC) compile $(2) $(3) --output $(1) --overwrite --depfile $(1).d
$(1)/merged.onnx $(1)/plan.json $(1)/report.json: $(1)/manifest.json
	@:
-include $(1).d
endef
