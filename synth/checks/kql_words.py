"""The words of KQL, lower case, as learn.microsoft.com/kusto/query lists them."""

_OPERATORS = """
where filter extend project project-away project-keep project-rename project-reorder project-by-names
summarize sort order top take limit count distinct join lookup union mv-expand mvexpand mv-apply parse
parse-where parse-kv make-series render evaluate invoke as serialize consume getschema fork facet partition
reduce scan search find sample sample-distinct top-nested top-hitters make-graph graph-match graph-to-table
graph-shortest-paths graph-mark-components assert-schema externaldata macro-expand
"""
_BRACKETS_ONLY = """
parse-kv fork facet partition reduce scan top-nested top-hitters make-graph graph-match graph-to-table
assert-schema macro-expand project-by-names graph-shortest-paths graph-mark-components find search
"""
_COMPARISONS = """
in has has_cs contains contains_cs startswith startswith_cs endswith endswith_cs hasprefix hasprefix_cs
hassuffix hassuffix_cs has_any has_all between matches like notlike
"""
_KEYWORDS = """
and or not by on to of with asc desc nulls first last let set declare from step default kind as typeof
regex inner innerunique leftouter rightouter fullouter leftanti rightanti leftsemi rightsemi anti semi
hint true false null dynamic datetime date timespan time guid bool boolean int long real double decimal
string datatable range print materialize view database cluster table withsource isfuzzy bagexpansion
remote strategy shuffle broadcast left right simple relaxed flags limit title xtitle ytitle legend series
accumulate timechart barchart columnchart piechart linechart areachart scatterchart card stackedareachart
anomalychart pivotchart treemap ladderchart
"""
_FUNCTIONS = """
abs ago all any any_value arg_max arg_min array_concat array_index_of array_length array_slice
array_sort_asc array_sort_desc array_split array_sum avg avgif bag_keys bag_merge bag_pack bag_unpack
base64_decode_tostring base64_encode_tostring bin bin_at binary_all_and binary_all_or binary_and
binary_or binary_shift_left buildschema case ceiling coalesce column_ifexists column_names_of cos count
countif countof datetime_add datetime_diff datetime_part datetime_utc_to_local dayofmonth dayofweek
dayofyear dcount dcountif dcount_hll endofday endofmonth endofweek endofyear endswith
estimate_data_size_bytes exp extract extract_all extract_json extractjson floor format_bytes
format_datetime format_ipv4 format_timespan geo_distance_2points getmonth getyear hash hash_md5
hash_sha256 hll hll_merge hourofday iff iif indexof ingestion_time ipv4_compare ipv4_is_in_range
ipv4_is_match ipv4_is_private ipv4_lookup isascii isempty isfinite isinf isnan isnotempty isnotnull
isnull log log10 log2 make_bag make_bag_if make_datetime make_list make_list_if make_set make_set_if
make_string make_timespan max maxif max_of min minif min_of monthofyear next new_guid now pack pack_all
pack_array parse_csv parse_ipv4 parse_json parse_path parse_url parse_urlquery parse_user_agent
parse_version parse_xml percentile percentiles percentiles_array percentilew pow prev rand rank_dense
regex_quote repeat replace replace_regex replace_string replace_strings reverse round row_cumsum
row_number row_rank_dense row_window_session series_decompose series_decompose_anomalies
series_fill_const series_fill_linear series_fit_line series_outliers series_stats set_difference
set_has_element set_intersect set_union sign sin sliding_window_counts split sqrt startofday startofmonth
startofweek startofyear stdev stdevif strcat strcat_array strcat_delim strcmp string_size strlen strrep
substring sum sumif take_any tan tdigest todatetime todecimal todouble todynamic toguid tohex toint
tolong tolower toobject toreal toscalar tostring totimespan toupper translate trim trim_end trim_start
treepath unixtime_milliseconds_todatetime unixtime_seconds_todatetime url_decode url_encode variance
week_of_year welch_test zip autocluster basket diffpatterns narrow pivot
"""

OPERATORS = frozenset(_OPERATORS.split())
"""What may follow a pipe."""
BRACKETS_ONLY = frozenset(_BRACKETS_ONLY.split())
"""Operators of which only the brackets are checked."""
COMPARISONS = frozenset(_COMPARISONS.split())
_ALL = " ".join((_OPERATORS, _COMPARISONS, _KEYWORDS, _FUNCTIONS))
WORDS = frozenset(_ALL.split()) | frozenset(_ALL.replace("-", " ").split())
"""Every word that a query may hold though it is no name of a table, a column or a value."""
