package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fewestWalsenders is how many connections for replication a server must take: standbys, the archive, and copies on their way.
const fewestWalsenders = 10

const parameterPattern = `^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`

var parameterShape = regexp.MustCompile(parameterPattern)

func parameterName() nameRule {
	return nameRule{pattern: parameterPattern, allows: parameterShape.MatchString,
		allowed: "a PostgreSQL setting in lower case, such as shared_buffers"}
}

// reserved is a PostgreSQL setting, or with a final * all that begin so, that a plan may not state.
type reserved struct{ name, because string }

// reservedParameters are the settings that Holdfast's promises rest on. The order is the one they are
// tried in.
func reservedParameters() []reserved {
	const (
		copies  = "it decides which commits are acknowledged; use standbys and acknowledged_by"
		follows = "Holdfast points each standby at its primary"
		place   = "Holdfast gives each server its address and port; use listen"
		proof   = "every connection is proven with the application's own certificates"
		archive = "Holdfast streams the write-ahead log into the vault; use backup"
		recover = "recovery is started by holdfast restore alone"
		disk    = "without it a crash can lose acknowledged commits"
		found   = "Holdfast lays the data directory and its files out"
		detect  = "failure detection and switchover count on its value"
		hides   = "it would hide damage that Holdfast must see"
	)
	return []reserved{
		{"synchronous_standby_names", copies},
		{"primary_conninfo", follows}, {"primary_slot_name", follows}, {"hot_standby", "Holdfast decides when a server may answer readers"},
		{"restart_after_crash", "a server that restarts by itself escapes the keeper and may answer with rows that are not replicated"},
		{"listen_addresses", place}, {"port", place}, {"unix_socket_*", place},
		{"ssl", proof}, {"ssl_*", proof}, {"hba_file", proof}, {"ident_file", proof},
		{"wal_level", "replication and backup need the level that Holdfast sets"},
		{"archive_*", archive},
		{"restore_command", recover}, {"recovery_*", recover}, {"promote_trigger_file", recover},
		{"fsync", disk}, {"full_page_writes", disk}, {"data_sync_retry", disk},
		{"wal_log_hints", "rejoining a former primary by pg_rewind needs it"},
		{"data_directory", found}, {"config_file", found}, {"external_pid_file", found}, {"include", found}, {"include_*", found},
		{"cluster_name", "each server carries the name of its host"},
		{"logging_collector", "the keeper keeps the server's log"},
		{"wal_sender_timeout", detect}, {"wal_receiver_timeout", detect}, {"wal_receiver_status_interval", detect}, {"wal_retrieve_retry_interval", detect},
		{"zero_damaged_pages", hides}, {"ignore_checksum_failure", hides}, {"ignore_invalid_pages", hides}, {"ignore_system_indexes", hides},
		{"allow_alter_system", "Holdfast itself must be able to read back what it set"},
	}
}

// judgeParameter is nil for a setting that a plan may state.
func judgeParameter(name, value string) error {
	for _, r := range reservedParameters() {
		prefix, many := strings.CutSuffix(r.name, "*")
		if name == r.name || many && strings.HasPrefix(name, prefix) {
			return fmt.Errorf("is reserved: %s (leave it out)", r.because)
		}
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return fmt.Errorf("has more than one line (allowed: one)")
	}
	switch name {
	case "synchronous_commit":
		if !slices.Contains([]string{"on", "remote_apply", "true", "yes", "1"}, strings.ToLower(value)) {
			return fmt.Errorf("%q lets the client hear of a commit before a standby holds it (on, remote_apply)", value)
		}
	case "max_wal_senders", "max_replication_slots":
		if n, err := strconv.Atoi(value); err != nil || n < fewestWalsenders {
			return fmt.Errorf("%q is too few for standbys, backup and rebuilding (%d or more)", value, fewestWalsenders)
		}
	}
	return nil
}

// restartParameters are the settings that PostgreSQL reads only when it starts (pg_settings.context =
// postmaster, versions 14 to 18); every other one is reloaded.
func restartParameters() []string {
	return []string{
		"autovacuum_freeze_max_age", "autovacuum_max_workers", "autovacuum_multixact_freeze_max_age", "autovacuum_worker_slots",
		"bonjour", "bonjour_name", "commit_timestamp_buffers", "debug_io_direct", "dynamic_shared_memory_type", "event_source",
		"huge_page_size", "huge_pages", "io_max_combine_limit", "io_max_concurrency", "io_method", "jit_provider",
		"max_active_replication_origins", "max_connections", "max_files_per_process", "max_locks_per_transaction", "max_logical_replication_workers",
		"max_notify_queue_pages", "max_pred_locks_per_transaction", "max_prepared_transactions", "max_replication_slots",
		"max_wal_senders", "max_worker_processes", "min_dynamic_shared_memory", "multixact_member_buffers", "multixact_offset_buffers",
		"notify_buffers", "old_snapshot_threshold", "reserved_connections", "serializable_buffers", "shared_buffers", "shared_memory_type",
		"shared_preload_libraries", "subtransaction_buffers", "superuser_reserved_connections", "track_activity_query_size",
		"track_commit_timestamp", "transaction_buffers", "wal_buffers", "wal_decode_buffer_size",
	}
}
