// Events on PostgreSQL: the tables, and the functions that append in one round trip.
//
// Two things make the order over all streams one that a reader can trust. Who appends takes a shared advisory lock that
// carries the last position drawn before its own, and then draws: whatever it will commit stands behind that number.
// Who reads looks at the newest event, then for the lowest such lock, and reads up to the lower of the two: nothing
// before that can still appear. Locks end after the commit is visible, so "no lock" means "there to be seen". Each of
// these looks is a statement of its own, with a snapshot of its own.
//
// What excludes writers from each other (of one stream, of one tag) are the locks of their batches: see batch::lock.
#include "postgres_rows.hpp"

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

constexpr const char* stream_function = R"(
create function cofferdam_stream(the_name text)
returns table(id bigint, first_version bigint, is_deleted boolean, version bigint) language sql stable as $$
  select s.id, s.first_version, s.is_deleted, coalesce(
    (select e.version from cofferdam_events e where e.stream = s.id order by e.version desc limit 1), 0)
  from cofferdam_streams s where s.name = the_name
$$)";

// The lock's key: 16 bits of family, 48 of the position. Taken once in a transaction: the first is the lowest.
// Assignments, since what is not selected from anything takes PL/pgSQL a tenth of the time.
constexpr const char* begin_to_draw_function = R"(
create function cofferdam_begin_to_draw() returns void language plpgsql as $$
declare
  before bigint;
  nothing text;
begin
  if coalesce(current_setting('cofferdam.drawing', true), '') <> 'on' then
    before := coalesce(pg_sequence_last_value('cofferdam_positions'), 0);
    nothing := pg_advisory_xact_lock_shared((53221::bigint << 48) | before);
    nothing := set_config('cofferdam.drawing', 'on', true);
  end if;
end
$$)";

constexpr const char* settled_function = R"(
create function cofferdam_settled() returns bigint language plpgsql as $$
declare
  newest bigint;
  lowest bigint;
begin
  select coalesce(max(position), 0) into newest from cofferdam_events;
  select min(((classid::bigint & 65535) << 32) | objid::bigint) into lowest from pg_locks
    where locktype = 'advisory' and objsubid = 1 and classid::bigint >> 16 = 53221
      and database = (select oid from pg_database where datname = current_database());
  return least(newest, lowest);
end
$$)";

// Each item: {"tags": [...], "hashes": [...], "types": [...]}. Ranges of rows, so that the tags' index is used
// whatever the planner believes.
constexpr const char* match_function = R"(
create function cofferdam_match(items jsonb, after bigint) returns bigint language plpgsql as $$
declare
  item jsonb;
  wanted_tags text[];
  wanted_types text[];
  hashes bigint[];
  found bigint;
  first bigint;
begin
  if jsonb_array_length(items) = 0 then
    return (select e.position from cofferdam_events e where e.position > after order by e.position limit 1);
  end if;
  for item in select * from jsonb_array_elements(items) loop
    wanted_tags := array(select jsonb_array_elements_text(item->'tags'));
    wanted_types := array(select jsonb_array_elements_text(item->'types'));
    hashes := array(select jsonb_array_elements_text(item->'hashes')::bigint);
    if cardinality(hashes) = 0 then
      select e.position into found from cofferdam_events e
        where e.position > after and (cardinality(wanted_types) = 0 or e.type = any(wanted_types))
        order by e.position limit 1;
    else
      select t.position into found from cofferdam_tags t join cofferdam_events e on e.position = t.position
        where (t.tag, t.position) > (hashes[1], after) and (t.tag, t.position) <= (hashes[1], 9223372036854775807)
          and (cardinality(wanted_types) = 0 or e.type = any(wanted_types))
          and string_to_array(e.tags, E'\n') @> wanted_tags
        order by t.tag, t.position limit 1;
    end if;
    first := least(first, found);
  end loop;
  return first;
end
$$)";

constexpr const char* require_function = R"(
create function cofferdam_require(wanted text, wanted_version bigint, has_events boolean, version bigint)
returns void language plpgsql as $$
begin
  if (case wanted when 'none' then has_events when 'exists' then not has_events
                  when 'exact' then wanted_version <> version else false end) then
    raise exception using errcode = 'CFD01', message = 'the stream is not as expected', detail =
      version || ' ' || case when has_events then 1 else 0 end;
  end if;
end
$$)";

// Checks first, numbers afterwards: a conflict uses up no position. What is known by its ids is answered even where
// the stream was removed since.
constexpr const char* append_function = R"(
create function cofferdam_append(the_stream text, wanted text, wanted_version bigint, conditions jsonb,
  has_ids boolean, ids uuid[], digests bigint[], types text[], schemas bigint[], dates bigint[], offsets bigint[],
  payloads bytea, tag_lines text[], correlations text[], causations text[], metadatas text[], tag_events bigint[],
  tag_hashes bigint[],
  out o_first bigint, out o_last bigint, out o_position bigint, out o_known boolean) language plpgsql as $$
declare
  st record;
  known record;
  condition jsonb;
  many bigint := cardinality(ids);
  has_events boolean;
  matching bigint;
  positions bigint[];
  nothing text;
begin
  select * into st from cofferdam_stream(the_stream);
  st.version := coalesce(st.version, 0);
  has_events := st.version > 0 and st.version >= st.first_version;
  o_known := false;
  if has_ids then
    select count(*) as number, min(e.version) as first, max(e.position) as position,
           max(e.version - given.n) = min(e.version - given.n) as in_order,
           min(given.id::text) filter (where e.stream is distinct from st.id or e.digest <> given.digest) as other,
           bool_or(e.stream = st.id) filter (where e.stream is distinct from st.id or e.digest <> given.digest) as own
      into known
      from unnest(ids, digests) with ordinality as given(id, digest, n) join cofferdam_events e on e.id = given.id;
    if known.other is not null then
      raise exception using errcode = 'CFD04', message = 'an event id is used again', detail = 'an event ' ||
        known.other || ' is there already, in ' || case when known.own then 'this' else 'another' end ||
        ' stream, with other content or another place';
    end if;
    if known.number > 0 and (known.number <> many or not known.in_order) then
      raise exception using errcode = 'CFD04', message = 'an event id is used again', detail =
        'some of the events for ''' || the_stream || ''' are there already, others are not: the batch was put ' ||
        'together otherwise the first time';
    end if;
    if known.number > 0 then
      if wanted = 'exact' and wanted_version + 1 <> known.first then
        perform cofferdam_require('exact', -1, has_events, st.version);
      end if;
      o_first := known.first;
      o_last := known.first + many - 1;
      o_position := known.position;
      o_known := true;
      return;
    end if;
  end if;
  if st.is_deleted then
    raise exception using errcode = 'CFD03', message = 'the stream was deleted';
  end if;
  nothing := cofferdam_require(wanted, wanted_version, has_events, st.version);
  if conditions is not null then
    for condition in select * from jsonb_array_elements(conditions) loop
      matching := cofferdam_match(condition->'items', (condition->>'after')::bigint);
      if matching is not null then
        raise exception using errcode = 'CFD02', message = 'an event matches', detail =
          matching || ' ' || (condition->>'after') || ' ' || st.version;
      end if;
    end loop;
  end if;
  if many = 0 then
    o_first := st.version;
    o_last := st.version;
    select coalesce(max(position), 0) into o_position from cofferdam_events;
    return;
  end if;
  if st.id is null then
    insert into cofferdam_streams(name) values(the_stream) returning id into st.id;
  end if;
  nothing := cofferdam_begin_to_draw();
  if many = 1 then
    positions := array[nextval('cofferdam_positions')];
    insert into cofferdam_events values(positions[1], st.id, st.version + 1, ids[1], types[1], schemas[1], dates[1],
      digests[1], payloads, nullif(tag_lines[1], ''), nullif(correlations[1], ''), nullif(causations[1], ''),
      nullif(metadatas[1], ''));
  else
    positions := array(select nextval('cofferdam_positions') from generate_series(1, many));
    insert into cofferdam_events select positions[n], st.id, st.version + n, ids[n], types[n], schemas[n], dates[n],
      digests[n], substring(payloads from offsets[n]::int for (offsets[n + 1] - offsets[n])::int),
      nullif(tag_lines[n], ''), nullif(correlations[n], ''), nullif(causations[n], ''), nullif(metadatas[n], '')
      from generate_series(1, many) as n;
  end if;
  if cardinality(tag_hashes) > 0 then
    insert into cofferdam_tags select hash, positions[n] from unnest(tag_hashes, tag_events) as t(hash, n)
      on conflict do nothing;
  end if;
  o_first := st.version + 1;
  o_last := st.version + many;
  o_position := positions[many];
end
$$)";

// Never beyond the next event, which must be read when it comes, and never back.
constexpr const char* end_function = R"(
create function cofferdam_end(the_stream text, wanted text, wanted_version bigint, for_ever boolean, first bigint)
returns void language plpgsql as $$
declare
  st record;
begin
  select * into st from cofferdam_stream(the_stream);
  st.version := coalesce(st.version, 0);
  if st.is_deleted then
    raise exception using errcode = 'CFD03', message = 'the stream was deleted';
  end if;
  perform cofferdam_require(wanted, wanted_version, st.version > 0 and st.version >= st.first_version, st.version);
  if for_ever then
    insert into cofferdam_streams(name, is_deleted) values(the_stream, true)
      on conflict(name) do update set is_deleted = true;
  else
    update cofferdam_streams set first_version = greatest(first_version, least(first, st.version + 1))
      where id = st.id;
  end if;
end
$$)";

}  // namespace

std::vector<migration> postgres_event_schema() {
  std::vector<migration> history;
  history.push_back(
      {1,
       "events",
       {"create table cofferdam_streams(id bigint generated by default as identity primary key, name text collate "
        "\"C\" not null unique, first_version bigint not null default 1, is_deleted boolean not null default false)",
        "create sequence cofferdam_positions",
        "create table cofferdam_events(position bigint primary key, stream bigint not null, version bigint not null, "
        "id uuid not null, type text not null, schema_version bigint not null, recorded_at bigint not null, digest "
        "bigint not null, data bytea not null, tags text, correlation text, causation text, metadata text, constraint "
        "cofferdam_events_id unique(id))",
        "create unique index cofferdam_events_of_stream on cofferdam_events(stream, version)",
        "create table cofferdam_tags(tag bigint not null, position bigint not null, primary key(tag, position))",
        stream_function, begin_to_draw_function, settled_function, match_function, require_function, append_function,
        end_function}});
  history.push_back(
      {2,
       "snapshots, projections",
       {"create table cofferdam_snapshots(stream text not null, schema_version bigint not null, version bigint not "
        "null, data text not null, primary key(stream, schema_version))",
        "create table cofferdam_projections(name text primary key, position bigint not null)",
        "create table cofferdam_parked(projection text not null, stream text not null, position bigint not null, "
        "reason text not null, primary key(projection, stream, position))"}});
  history.push_back(removed_streams("bigint"));
  history.push_back(blue_green_tables());
  return history;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
