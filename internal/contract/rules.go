package contract

// rules are in the order in which a cache should be repaired.
func rules() []rule {
	return []rule{
		// reading.go
		{
			"a miss costs two round trips and the next read none",
			"A cold key costs more than it needs to, or a hot one anything at all.",
			nil, aMissCostsTwoRoundTripsAndTheNextReadNone,
		},
		{
			"the first read of a present value costs one round trip and the next none",
			"Each process that starts asks for what is there more often than it needs to.",
			nil, theFirstReadOfAPresentValueCostsOneRoundTripAndTheNextNone,
		},
		{
			"many callers of many clients share one load",
			"When a popular key expires the database gets as many queries as there are callers.",
			nil, manyCallersOfManyClientsShareOneLoad,
		},
		{
			"a waiter is woken by the push, not by the end of the lock",
			"Callers wait for LockTTL though the value has long been there.",
			nil, aWaiterIsWokenByThePushNotByTheEndOfTheLock,
		},
		{
			"a slow loader keeps its lock",
			"Loads that take longer than LockTTL run several times at once.",
			nil, aSlowLoaderKeepsItsLock,
		},
		{
			"a lock whose holder died is taken over",
			"A process that is killed while it loads takes its key with it.",
			nil, aLockWhoseHolderDiedIsTakenOver,
		},
		{
			"an absence is remembered",
			"A key that nobody has is looked up in the database by every caller.",
			nil, anAbsenceIsRemembered,
		},
		{
			"an absence lives no longer than a value would",
			"A key that has been created meanwhile stays unseen for longer than the caller has allowed.",
			nil, anAbsenceLivesNoLongerThanAValueWould,
		},
		{
			"GetMulti answers from everywhere at once",
			"A batch of keys of which some are there costs as much as one of cold keys.",
			nil, getMultiAnswersFromEverywhereAtOnce,
		},
		{
			"Fetch tells where a value is from",
			"Nobody can tell a fresh answer from one that is old, or that was made without Redis.",
			nil, fetchTellsWhereAValueIsFrom,
		},
		{
			"a call that takes nothing stale waits for the load, and the others do not",
			"One caller that must have a fresh value makes all others wait for the loader.",
			nil, aStrictCallWaitsAndTheOthersDoNot,
		},
		{
			"GetMulti of a hundred cold keys costs three round trips",
			"A page that needs a hundred keys takes a hundred round trips.",
			nil, getMultiOfAHundredColdKeysCostsThreeRoundTrips,
		},
		{
			"Peek never loads and never locks",
			"Looking whether something is cached delays callers that want to load it.",
			nil, peekNeverLoadsAndNeverLocks,
		},
		{
			"without tracking everything works by asking",
			"Behind a server or proxy without pushes callers wait for ever, or read what is old.",
			nil, withoutTrackingEverythingWorksByAsking,
		},
		{
			"without memory every read asks Redis",
			"A client whose memory is switched off is served from it.",
			nil, withoutMemoryEveryReadAsksRedis,
		},
		// loading.go
		{
			"a loader's error releases the lock",
			"One failed query keeps everybody from the key for LockTTL.",
			nil, aLoadersErrorReleasesTheLock,
		},
		{
			"a panic frees the key",
			"A bug in one loader ends the process, or blocks its key.",
			nil, aPanicFreesTheKey,
		},
		{
			"the leader's cancelled context does not fail its followers",
			"One browser that is closed fails the requests of others.",
			nil, theLeadersCancelledContextDoesNotFailItsFollowers,
		},
		{
			"the loader sees the values of the context, and a deadline",
			"Traces and tenants are lost in the loader, and a query that hangs is never given up.",
			nil, theLoaderSeesTheValuesOfTheContextAndADeadline,
		},
		{
			"a load is cancelled when its last waiter has left",
			"The database works for nobody.",
			nil, aLoadIsCancelledWhenItsLastWaiterHasLeft,
		},
		{
			"a loader that does not heed its context is left behind",
			"A loader that hangs takes its callers with it, or stores what has long been out of date.",
			nil, aLoaderThatDoesNotHeedItsContextIsLeftBehind,
		},
		{
			"a loader that asks for its own key gets an error",
			"It waits for itself until LoadTimeout.",
			nil, aLoaderThatAsksForItsOwnKeyGetsAnError,
		},
		{
			"Close wakes everybody and gives up its locks",
			"A deployment costs callers LockTTL for each key that was being loaded.",
			nil, closeWakesEverybodyAndGivesUpItsLocks,
		},
		// writing.go
		{
			"a write during a load is not undone",
			"An update is overwritten with what was read before it, and stays so until the ttl.",
			nil, aWriteDuringALoadIsNotUndone,
		},
		{
			"a refused fill answers whoever asked before the load",
			"On a key that is written often callers load again and again, and none gets an answer.",
			nil, aRefusedFillAnswersWhoeverAskedBeforeTheLoad,
		},
		{
			"a process reads its own writes",
			"A user who has just saved a form sees what was there before.",
			nil, aProcessReadsItsOwnWrites,
		},
		{
			"another process sees a write by the push",
			"Processes serve what is old until the ttl.",
			nil, anotherProcessSeesAWriteByThePush,
		},
		{
			"Touch moves the end of values only",
			"An absence or a lock lives as long as a value.",
			nil, touchMovesTheEndOfValuesOnly,
		},
		{
			"SetMulti is Set for each key",
			"Of many values that are stored together some are lost, or mixed up.",
			nil, setMultiIsSetForEachKey,
		},
		{
			"Expire makes stale what Del would remove",
			"Callers wait for the loader and get its error, though the old value would do; or they keep it for ever.",
			nil, expireMakesStaleWhatDelWouldRemove,
		},
		{
			"Refresh replaces what is there",
			"A value that is known to be wrong is served until its ttl; or a write is undone by a refresh.",
			nil, refreshReplacesWhatIsThere,
		},
		{
			"keys may be any bytes",
			"Two keys are mixed up, or one cannot be cached.",
			nil, keysMayBeAnyBytes,
		},
		{
			"values may be any bytes",
			"A value that begins as our markers and headers do is taken for a lock, or lost.",
			nil, valuesMayBeAnyBytes,
		},
		{
			"a value that is too large is returned and not stored",
			"One value fills Redis, or cannot be had at all.",
			nil, aValueThatIsTooLargeIsReturnedAndNotStored,
		},
		{
			"a ttl means what it says",
			"A value lives for ever, or not at all, or in memory for longer than in Redis.",
			nil, whatATTLMeans,
		},
		{
			"a key of another type is loaded and left alone",
			"Somebody's list is overwritten, or Get fails for as long as it is there.",
			nil, aKeyOfAnotherTypeIsLoadedAndLeftAlone,
		},
		{
			"SCRIPT FLUSH costs a round trip and nothing else",
			"After a failover or a flush of scripts every call fails.",
			nil, scriptFlushCostsARoundTripAndNothingElse,
		},
		// away.go
		{
			"without Redis the loader answers",
			"The service is down when its cache is.",
			[]Capability{Killed}, withoutRedisTheLoaderAnswers,
		},
		{
			"Redis may die in the middle of a load",
			"What was loaded is thrown away, and its callers get an error.",
			[]Capability{Killed}, redisDiesInTheMiddleOfALoad,
		},
		{
			"Redis may die while somebody waits for a lock",
			"They wait for a push that will never come.",
			[]Capability{Killed}, redisDiesWhileSomebodyWaitsForALock,
		},
		{
			"after the trip no call asks a frozen Redis",
			"Each request takes RedisTimeout for as long as Redis hangs.",
			[]Capability{Frozen}, afterTheTripNoCallAsksAFrozenRedis,
		},
		{
			"a call ends with its own context while Redis hangs",
			"Requests that nobody waits for any more pile up.",
			[]Capability{Frozen}, aCallEndsWithItsOwnContextWhileRedisHangs,
		},
		{
			"a silent partition does not make reads stale beyond the lease",
			"A process that is cut off serves what others have changed or deleted.",
			nil, aSilentPartitionDoesNotMakeReadsStaleBeyondTheLease,
		},
		{
			"a lost connection gives up the memory",
			"A change that could not be pushed is not seen until the ttl.",
			[]Capability{Killed}, aLostConnectionGivesUpTheMemory,
		},
		{
			"a load without Redis answers nobody once Redis is back",
			"What another process has deleted is served by a load that began before.",
			nil, aLoadWithoutRedisAnswersNobodyOnceRedisIsBack,
		},
		{
			"what was set and deleted while away is replayed",
			"An acknowledged write is lost, or what was deleted comes back.",
			[]Capability{Frozen}, whatWasSetAndDeletedWhileAwayIsReplayed,
		},
		{
			"the next process replays what this one could not",
			"A deployment during an outage loses what was acknowledged.",
			[]Capability{Frozen}, theNextProcessReplaysWhatThisOneCouldNot,
		},
		// traps.go
		{
			"a miss is no outage",
			"A plain miss trips the fallback.",
			nil, aMissIsNoOutage,
		},
		{
			"what is written can be read back",
			"Values written to Redis cannot be read back.",
			nil, whatIsWrittenCanBeReadBack,
		},
		{
			"a string is replayed byte for byte",
			"A string's quotes are trimmed.",
			nil, aStringIsReplayedByteForByte,
		},
		{
			"a ttl below a second stays",
			"A ttl below a second becomes none.",
			nil, aTTLBelowASecondStays,
		},
		{
			"what lives for ever is replayed",
			"What lives for ever is never replayed.",
			nil, whatLivesForEverIsReplayed,
		},
		{
			"a replay that fails keeps its files",
			"A failed replay deletes its files.",
			nil, aReplayThatFailsKeepsItsFiles,
		},
		{
			"a Del while away is replayed, and ends the Set before it",
			"A delete while degraded is forgotten, or its pending write reappears.",
			nil, aDelWhileAwayIsReplayedAndEndsTheSetBefore,
		},
		{
			"Close keeps what was acknowledged",
			"Close drops what was acknowledged.",
			nil, closeKeepsWhatWasAcknowledged,
		},
		{
			"a fresh directory is healthy",
			"A client with a fresh directory never leaves the fallback.",
			nil, aFreshDirectoryIsHealthy,
		},
		{
			"a client without Redis starts",
			"A configuration kills the process.",
			nil, aClientWithoutRedisStarts,
		},
		{
			"a batch loader may omit a key",
			"A batch loader that omits a key loops.",
			nil, aBatchLoaderMayOmitAKey,
		},
		{
			"a loader slower than the lock is called once",
			"A loader slower than the lock livelocks.",
			nil, aLoaderSlowerThanTheLockIsCalledOnce,
		},
		{
			"a load does not replace a newer value",
			"A load overwrites a newer value.",
			nil, aLoadDoesNotReplaceANewerValue,
		},
		{
			"a value that looks like a lock is a value",
			"A value that looks like a lock loops.",
			nil, aValueThatLooksLikeALockIsAValue,
		},
		{
			"a panic does not block the key",
			"A panic blocks the key until its ttl.",
			nil, aPanicDoesNotBlockTheKey,
		},
		{
			"a failing loader is called once",
			"A failing loader is called by its waiters one after another.",
			nil, aFailingLoaderIsCalledOnce,
		},
		{
			"the leader may leave",
			"The leader's cancelled context fails its followers.",
			nil, theLeaderMayLeave,
		},
		{
			"the first Get after an outage waits for no lock",
			"The first Get after an outage waits for a whole lock.",
			nil, theFirstGetAfterAnOutageWaitsForNoLock,
		},
		{
			"nothing is kept of a key that was read",
			"The wait table grows with every key that was ever read.",
			nil, nothingIsKeptOfAKeyThatWasRead,
		},
	}
}
