"""PostgreSQL's functions by what they do, as far as routing and the read/write split need to know.

The lists are held against pg_proc by tests/test_query.py: each name exists, and none is volatile but `VOLATILE`.
"""

# ruff: noqa: SIM905 - lists for people to read

from __future__ import annotations

# What a statement may call and still be said to read only: neither writing nor speaking of the server it runs on.
VOLATILE = frozenset("""random clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7 random_normal""".split())
STABLE = frozenset(
    """now statement_timestamp transaction_timestamp age to_char to_date to_timestamp date_trunc""".split()
)
AGGREGATES = frozenset(
    """count sum avg min max array_agg string_agg bool_and bool_or every bit_and bit_or bit_xor json_agg jsonb_agg
    json_object_agg jsonb_object_agg stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop covar_samp
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy percentile_cont
    percentile_disc mode range_agg range_intersect_agg any_value xmlagg""".split()
)
PLAIN = frozenset(
    """abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log10 power mod div gcd lcm factorial degrees
    radians sin cos tan asin acos atan atan2 pi width_bucket scale min_scale trim_scale
    length char_length character_length octet_length bit_length lower upper initcap btrim ltrim rtrim lpad rpad left
    right substr substring overlay position strpos replace translate repeat reverse split_part concat concat_ws format
    ascii chr md5 sha256 sha224 sha384 sha512 encode decode to_hex quote_ident quote_literal quote_nullable
    regexp_replace regexp_matches regexp_match regexp_split_to_array regexp_split_to_table starts_with string_to_array
    array_to_string unistr normalize like notlike convert_from convert_to to_number text varchar
    date_part extract make_date make_time make_timestamp make_timestamptz make_interval justify_days justify_hours
    justify_interval timezone isfinite date_bin timestamp timestamptz date time
    array_length array_lower array_upper array_ndims array_dims cardinality array_append array_prepend array_cat
    array_remove array_replace array_position array_positions array_fill unnest generate_series generate_subscripts
    json_build_object json_build_array jsonb_build_object jsonb_build_array json_object jsonb_object to_json to_jsonb
    row_to_json array_to_json json_array_length jsonb_array_length json_each jsonb_each json_each_text jsonb_each_text
    json_extract_path jsonb_extract_path json_extract_path_text jsonb_extract_path_text json_object_keys
    jsonb_object_keys json_populate_record jsonb_populate_record json_populate_recordset jsonb_populate_recordset
    json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_typeof
    jsonb_typeof json_to_record jsonb_to_record json_to_recordset jsonb_to_recordset json_strip_nulls
    jsonb_strip_nulls jsonb_set jsonb_insert jsonb_pretty jsonb_path_exists jsonb_path_match jsonb_path_query
    jsonb_path_query_array jsonb_path_query_first
    num_nulls num_nonnulls lower_inc upper_inc lower_inf upper_inf isempty range_merge int4range int8range numrange
    tsrange tstzrange daterange to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank
    ts_rank_cd ts_headline setweight tsvector_to_array numnode querytree
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    like_escape similar_to_escape overlaps is_normalized pg_typeof hashtext point box circle polygon""".split()
)
READABLE = PLAIN | STABLE | AGGREGATES | VOLATILE
OF_THE_SERVER = ("pg_stat", "pg_locks", "pg_replication", "pg_settings", "pg_prepared", "pg_subscription")
