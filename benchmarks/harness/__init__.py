"""What every benchmark shares: records, options, data, classifiers, drawing, timing, tables and plots."""
